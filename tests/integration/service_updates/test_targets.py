"""Who gets a release: filters over attributes and over what devices run, on real databases."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.attributes import AttributeRow
from protocol.document import sign_document
from protocol.geometry import Core, Slot
from protocol.messages import MANIFEST_PAYLOAD_TYPE, ActionState, VersionManifest
from protocol.plan import Plan, ThresholdGates
from protocol.plan.targets import Target
from service.application.device_attributes import DeviceAttributes
from service.application.rollouts import NewRollout, RolloutView
from service.application.targets import condition_of
from service.application.unit_of_work import UnitOfWork
from service.domain.release import Release, UnknownReleaseError
from service.domain.rollout import RolloutState
from service.domain.targets import holds
from tests.integration.service_updates.update_world import COMPONENT, RELEASER, UpdateWorld, open_world
from tests.service_folder import make_folders

APPLICATION = Slot.A7_APPLICATION
THRESHOLDS = ThresholdGates(success_percent=100, error_percent=50, small_stage_rule=False).model_dump(mode="json")
VALUES = st.sampled_from(["a", "b", "c"])
ATTRIBUTES = st.fixed_dictionaries({"attribute": st.sampled_from(["site", "ring"])}, optional={}).flatmap(
    lambda test: st.one_of(
        VALUES.map(lambda value: {**test, "is": value}),
        st.lists(VALUES, min_size=1, max_size=2).map(lambda values: {**test, "in": values}),
    )
)
VERSIONS = st.sampled_from(["0.9", "1.0.0", "2"])
INSTALLED = st.tuples(
    st.sampled_from([{"component": COMPONENT}, {"name": "a7-first"}, {"name": "nothing"}]),
    st.one_of(st.just({}), VERSIONS.map(lambda v: {"is": v}), VERSIONS.map(lambda v: {"below": v})),
).map(lambda parts: {"installed": APPLICATION.value, **parts[0], **parts[1]})
MODELS = st.one_of(
    st.sampled_from(["a", "c"]).map(lambda label: {"model": "m4-0", "label": label}),
    st.sampled_from([1024, 1025]).map(lambda least: {"model": "m4-0", "fact": "arena_bytes", "at_least": least}),
    st.just({"model": "m4-1", "kind": "tflite"}),
)
FILTERS = st.recursive(
    st.one_of(
        ATTRIBUTES, INSTALLED, st.sampled_from(["first", "model", "gone"]).map(lambda name: {"release": name}), MODELS
    ),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=5,
)


@pytest.fixture
async def world(database: str, tmp_path: Path) -> AsyncIterator[UpdateWorld]:
    async with open_world(make_folders(tmp_path), database) as opened:
        yield opened


def plan(*stages: dict[str, Any], target: Any = None) -> Plan:
    return Plan.model_validate({"stages": stages, "target": target, "gates": THRESHOLDS})


async def say(world: UpdateWorld, device_id: str, changes: Mapping[str, str | None]) -> None:
    attributes = DeviceAttributes(world.unit_of_work, clock=world.clock)
    await attributes.take(RELEASER, [AttributeRow(device=device_id, attributes=changes)])


async def roll_out(world: UpdateWorld, plan_: Plan, release: str = "first") -> RolloutView:
    view = await world.rollouts.create(RELEASER, NewRollout(release, "Production", None, plan_), start_now=True)
    await world.tick()
    return view


async def members(world: UpdateWorld, view: RolloutView, *, stage: int | None = None) -> set[str]:
    actions = [numbered.action for numbered in await world.actions(view)]
    live = [action for action in actions if action.state is not ActionState.CANCELLED]
    return {action.device_id for action in live if stage in (None, action.stage_index)}


async def say_what_runs(world: UpdateWorld, device_id: str, images: Mapping[Slot, str]) -> None:
    """Let a device send the manifest of its boot."""
    manifest = VersionManifest(
        device_id=device_id, counter=1, reported_at=world.clock.now(), images=images, attack_indicator=""
    )
    envelope = sign_document(manifest, MANIFEST_PAYLOAD_TYPE, world.device_keys[device_id])
    await world.manifests.take_alone(device_id, envelope)


async def expected(work: UnitOfWork, target: Target, device_ids: list[str]) -> set[str]:
    """Return the devices that match by what storage in memory goes by."""
    condition = await condition_of(work, target)
    attributes, installed = await work.attributes.of(device_ids), await work.installed.of(device_ids)
    return {id_ for id_ in device_ids if holds(condition, attributes.get(id_, {}), installed.get(id_, {}))}


async def test_filters_mean_the_same_in_sql_and_in_memory(world: UpdateWorld) -> None:
    """Whatever Hypothesis makes of them; a beginning of ids and the count agree with it."""
    device_ids = await world.add_devices(12)
    release = await world.release("first")
    model = (await model_release(world, "model")).digests
    async with world.unit_of_work() as work:
        group = (await work.devices.get(device_ids[0])).group_id
        said = [{"site": "a"}, {"site": "b", "ring": "a"}, {"ring": "c"}, {}]
        await work.attributes.put({id_: said[number % 4] for number, id_ in enumerate(device_ids)})
        for number, device_id in enumerate(device_ids):
            digest = release.digests[APPLICATION] if number % 3 else "f" * 64
            runs = {APPLICATION: digest} | (model if number % 4 == 1 else {})
            await work.installed.put(device_id, runs, at=world.clock.now())
        await work.commit()
    made: list[Target] = []

    @settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(FILTERS)
    def make(content: Any) -> None:
        target = plan({"percent": 100}, target=content).target
        assert target is not None
        made.append(target)

    make()
    async with world.unit_of_work(read_only=True) as work:
        for target in made:
            condition = await condition_of(work, target)
            found = set(await work.actions.members(group, begins="", condition=condition))
            assert found == await expected(work, target, device_ids), target
            assert await work.actions.count_members(group, condition=condition) == len(found)
            one = await work.actions.members(group, begins=device_ids[0], condition=condition)
            assert set(one) == found & {device_ids[0]}


async def test_rollout_comes_to_matching_devices_in_the_order_of_stages(world: UpdateWorld) -> None:
    """The lab first, then half of those in Europe with the lab's among them, then all of the target, nobody else."""
    device_ids = await world.add_devices(12)
    for number, device_id in enumerate(device_ids):
        region = {"region": "eu" if number < 8 else "us"} if number < 10 else {}
        await say(world, device_id, region | ({"ring": "lab"} if number in {0, 9, 11} else {}))
    lab, eu = {"attribute": "ring", "is": "lab"}, {"attribute": "region", "is": "eu"}
    await world.release("first")
    wanted = plan(
        {"percent": 100, "where": lab},
        {"percent": 50, "where": eu},
        {"percent": 100},
        target={"attribute": "region", "in": ["eu", "us"]},
    )
    preview = await world.rollouts.preview(NewRollout("", "Production", None, wanted))
    assert (preview.devices, preview.matching, preview.stages) == (12, 10, [2, 4, 10])
    view = await roll_out(world, wanted)
    assert await members(world, view) == {device_ids[0], device_ids[9]}
    await world.confirm_all(view)
    await world.tick()
    order = view.stored.rollout.order
    first_half = set(sorted(device_ids[:8], key=order.position)[:4])
    assert await members(world, view, stage=1) == first_half - {device_ids[0]}
    await world.confirm_all(view)
    await world.tick()
    await world.confirm_all(view)
    await world.tick()
    assert await members(world, view) == set(device_ids[:10])
    ended = (await world.rollouts.get(order.rollout_id)).stored.rollout
    assert ended.state is RolloutState.FINISHED


async def test_device_joins_and_leaves_as_its_attributes_change(world: UpdateWorld) -> None:
    """Before it was given the release; what it has begun it ends, and who has left does not come back."""
    device_ids = await world.add_devices(3)
    await world.release("first")
    eu = {"region": "eu"}
    await say(world, device_ids[0], eu)
    view = await roll_out(world, plan({"percent": 100}, target={"attribute": "region", "is": "eu"}))
    assert await members(world, view) == {device_ids[0]}
    for device_id in device_ids[1:]:
        await say(world, device_id, eu)
    await world.tick()
    assert await members(world, view) == set(device_ids)
    action = next(n.action for n in await world.actions(view) if n.action.device_id == device_ids[1])
    await world.report(device_ids[1], action.action_id, ActionState.DOWNLOADING, sequence=1)
    for device_id in device_ids[1:]:
        await say(world, device_id, {"region": None})
    await world.tick()
    assert await members(world, view) == set(device_ids[:2])
    await say(world, device_ids[2], eu)
    await world.tick()
    assert await members(world, view) == set(device_ids[:2])


async def test_device_joins_when_it_runs_what_the_target_asks_for(world: UpdateWorld) -> None:
    """An update that ends makes it one of those whom another rollout is for."""
    device_ids = await world.add_devices(2)
    first = await world.release("first")
    await world.release("second")
    await say_what_runs(world, device_ids[0], first.digests)
    running = {"installed": APPLICATION.value, "name": "a7-first", "at_least": "1.0"}
    second = await roll_out(world, plan({"percent": 100}, target=running), "second")
    assert await members(world, second) == {device_ids[0]}
    await say_what_runs(world, device_ids[1], first.digests)
    await world.tick()
    assert await members(world, second) == set(device_ids)


@pytest.mark.parametrize(
    "target",
    [{"release": "model"}, {"model": "m4-0", "label": "b", "fact": "arena_bytes", "at_least": 1024, "below": 1025}],
)
async def test_device_joins_when_it_runs_a_release_or_a_model_of_such_facts(world: UpdateWorld, target: object) -> None:
    """By the name of the release, and by what the card of the model says."""
    device_ids = await world.add_devices(3)
    model = await model_release(world, "model")
    await world.release("second")
    await say_what_runs(world, device_ids[0], model.digests)
    view = await roll_out(world, plan({"percent": 100}, target=target), "second")
    assert await members(world, view) == {device_ids[0]}
    await say_what_runs(world, device_ids[1], model.digests)
    await world.tick()
    assert await members(world, view) == set(device_ids[:2])


async def test_filter_of_a_release_that_there_is_not_is_refused(world: UpdateWorld) -> None:
    """It would match nobody, whoever mistyped it; in a stage, too, and in a preview."""
    await world.add_devices(1)
    await world.release("second")
    target = {"not": {"release": "frist"}}
    for wanted in (
        plan({"percent": 100}, target=target),
        plan({"percent": 100, "where": target}, {"percent": 100}),
    ):
        new = NewRollout("second", "Production", None, wanted)
        for attempt in (world.rollouts.create(RELEASER, new, start_now=False), world.rollouts.preview(new)):
            with pytest.raises(UnknownReleaseError, match="expected an id or name in force, found 'frist'"):
                await attempt


async def test_facts_of_models_that_an_earlier_version_took_are_learnt_at_a_start(world: UpdateWorld) -> None:
    """From their packages; one whose bytes are gone is left out, and stays out of no other's way."""
    known, gone = await model_release(world, "model"), await model_release(world, "gone")
    async with world.unit_of_work() as work:
        for release in (known, gone):
            found = await work.artifacts.find(release.digests.values())
            for artifact in found.values():
                await work.artifacts.describe(replace(artifact, model=None))
        await work.commit()
    await world.store.delete(gone.digests[Slot.M4_0_MODEL])
    async with world.unit_of_work(read_only=True) as work:
        assert await work.metadata.models() == {}
        assert len(await work.artifacts.undescribed(limit=10)) == 2
    await world.artifacts.describe_models()
    async with world.unit_of_work(read_only=True) as work:
        models = await work.metadata.models()
    assert {sha256: facts.labels for sha256, facts in models.items()} == {known.digests[Slot.M4_0_MODEL]: ("a", "b")}


async def model_release(world: UpdateWorld, name: str) -> Release:
    """Bring a release of one model into force."""
    package, golden = world.model(f"{name}@1.0.0", Core.M4_0)
    return await world.hand_over(await world.prepare(name, {Slot.M4_0_MODEL: package}, golden=golden))


async def test_stage_counts_those_who_are_no_target_any_more(world: UpdateWorld) -> None:
    """Who confirmed in an earlier stage runs the new image, and is no target any more; the cap counts it."""
    device_ids = await world.add_devices(20)
    first = await world.release("first")
    release = await world.release("second")
    for number, device_id in enumerate(device_ids):
        await say_what_runs(world, device_id, first.digests)
        await say(world, device_id, {"ring": "lab" if number < 10 else "field"})
    lab = {"percent": 100, "where": {"attribute": "ring", "is": "lab"}}
    target = {"not": {"installed": APPLICATION.value, "name": "a7-second"}}
    view = await roll_out(world, plan(lab, {"percent": 60}, {"percent": 100, "soak": "1d"}, target=target), "second")
    for action in [each.action for each in await world.actions(view)]:
        await world.director.timestamp(action.device_id)
        await world.report(action.device_id, action.action_id, ActionState.CONFIRMED, digests=release.digests)
    await world.tick()
    reached = sorted(device_ids, key=view.stored.rollout.order.position)[:12]
    assert await members(world, view, stage=1) == set(reached) - set(device_ids[:10])
