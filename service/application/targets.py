"""Filters of plans, made ready for storage.

Which images pass a test is looked up among those in force, never in the fleet.
"""

from protocol.plan.targets import AllOf, AnyOf, AttributeTest, InstalledTest, NotOf, Target
from service.application.unit_of_work import UnitOfWork
from service.domain.targets import EVERYBODY, Condition, Every, HasAttribute, Not, RunsImage, Some


async def condition_of(work: UnitOfWork, *targets: Target | None) -> Condition:
    """Return the condition that every filter holds, by the images in force now; None stands for all devices."""
    parts = [await _condition(work, target) for target in targets if target is not None]
    return parts[0] if len(parts) == 1 else Every(tuple(parts)) if parts else EVERYBODY


async def _condition(work: UnitOfWork, target: Target) -> Condition:
    match target:
        case AttributeTest():
            return HasAttribute(target.attribute, target.values)
        case InstalledTest():
            builds = await work.metadata.builds(component_id=target.component, name=target.name)
            return RunsImage(target.installed, tuple(sorted(build.sha256 for build in builds if target.takes(build))))
        case AllOf():
            return Every(tuple([await _condition(work, part) for part in target.parts]))
        case AnyOf():
            return Some(tuple([await _condition(work, part) for part in target.parts]))
        case NotOf():
            return Not(await _condition(work, target.part))
