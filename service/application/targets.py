"""Filters of plans, made ready for storage.

Which images pass a test is looked up among those in force, never in the fleet.
"""

from protocol.plan import Plan
from protocol.plan.targets import (
    AllOf,
    AnyOf,
    AttributeTest,
    ImageTest,
    InstalledTest,
    ModelTest,
    NotOf,
    ReleaseTest,
    Target,
    leaves_of,
)
from service.application.unit_of_work import UnitOfWork
from service.domain.release import UnknownReleaseError
from service.domain.targets import EVERYBODY, NOBODY, Condition, Every, HasAttribute, Not, RunsImage, Some


async def check_releases(work: UnitOfWork, plan: Plan) -> None:
    """Refuse a plan whose filters name a release that is not in force: it would match nobody.

    Raises:
        UnknownReleaseError: names it.
    """
    for test in (test for each in plan.filters for test in leaves_of(each)):
        if isinstance(test, ReleaseTest):
            await work.releases.get(test.release)


async def condition_of(work: UnitOfWork, *targets: Target | None) -> Condition:
    """Return the condition that every filter holds, by the images in force now; None stands for all devices."""
    parts = [await _condition(work, target) for target in targets if target is not None]
    return parts[0] if len(parts) == 1 else Every(tuple(parts)) if parts else EVERYBODY


async def _condition(work: UnitOfWork, target: Target) -> Condition:
    match target:
        case AttributeTest():
            return HasAttribute(target.attribute, target.values)
        case AllOf():
            return Every(tuple([await _condition(work, part) for part in target.parts]))
        case AnyOf():
            return Some(tuple([await _condition(work, part) for part in target.parts]))
        case NotOf():
            return Not(await _condition(work, target.part))
        case _:
            return await _runs(work, target)


async def _runs(work: UnitOfWork, test: ImageTest) -> Condition:
    """Return the condition that a device runs what a test asks for."""
    match test:
        case InstalledTest():
            builds = await work.metadata.builds(component_id=test.component, name=test.name)
            return RunsImage(test.installed, tuple(sorted(build.sha256 for build in builds if test.takes(build))))
        case ModelTest():
            models = await work.metadata.models()
            return RunsImage(test.slot, tuple(sorted(sha256 for sha256, facts in models.items() if test.takes(facts))))
        case ReleaseTest():
            return await _runs_release(work, test)


async def _runs_release(work: UnitOfWork, test: ReleaseTest) -> Condition:
    try:
        digests = (await work.releases.get(test.release)).digests
    except UnknownReleaseError:  # it was in force when the rollout was made: a backup was restored since
        return NOBODY
    return Every(tuple(RunsImage(slot, (sha256,)) for slot, sha256 in sorted(digests.items())))
