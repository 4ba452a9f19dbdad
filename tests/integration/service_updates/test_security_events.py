"""What an operator is told when an update looks attacked; on SQLite and on PostgreSQL."""

from datetime import timedelta

import pytest

from protocol.document import sign_document
from protocol.evidence import LifeCycle
from protocol.geometry import Slot
from protocol.messages import MANIFEST_PAYLOAD_TYPE, ActionReport, ActionState, Attack, Cause, VersionManifest
from service.application.events import Event, EventType
from service.domain.action import Action
from service.domain.attestation import Appraisal, Finding, Status, Verdict
from service.domain.membership import StagePlan
from tests.integration.service_updates.update_world import UpdateWorld

EVERYBODY = (StagePlan(percent=100),)
TIMEOUT = timedelta(hours=1)


async def security_events(world: UpdateWorld, *, before: int | None = None, limit: int = 100) -> list[Event]:
    """What `GET /events` lists, newest first."""
    async with world.unit_of_work(read_only=True) as work:
        found = await work.events.page(EventType.SECURITY, before=before, limit=limit)
    return [stored.event for stored in found]


async def begun(world: UpdateWorld, device_id: str) -> Action:
    """A release that is rolled out to a device."""
    await world.release("second")
    rollout = await world.roll_out("second", EVERYBODY, action_timeout=TIMEOUT)
    await world.tick()
    return next(n.action for n in await world.actions(rollout) if n.action.device_id == device_id)


async def seen(world: UpdateWorld, device_id: str) -> None:
    async with world.unit_of_work() as work:
        await work.devices.touch({device_id: world.clock.now()})
        await work.commit()


def refusal(action: Action, **changes: object) -> ActionReport:
    report = ActionReport(
        action_id=action.action_id,
        sequence=3,
        state=ActionState.FAILED,
        cause=Cause.VERIFY,
        detail="timestamp.json is expired",
        attack=Attack.FREEZE,
        rule="MetadataExpiredError",
    )
    return report.model_copy(update=changes)


async def test_refused_update_names_attack_rule_and_release(world: UpdateWorld) -> None:
    """One report, one event, however often it arrives."""
    device = await world.add_device()
    action = await begun(world, device)
    for _ in range(3):
        await world.reports.report(device, refusal(action))
    (event,) = await security_events(world)
    assert (event.subject_id, event.change) == (device, "attack-refused")
    assert event.data == {
        "attack": "freeze",
        "rule": "MetadataExpiredError",
        "detail": "timestamp.json is expired",
        "action_id": action.action_id,
        "rollout_id": action.rollout_id,
        "release": "second",
    }


async def test_failure_without_attack_is_no_security_event(world: UpdateWorld) -> None:
    """An image that does not start is the rollout's business."""
    device = await world.add_device()
    action = await begun(world, device)
    report = refusal(action, cause=Cause.BOOT, attack=None, rule="BootRefusedError", detail="no")
    await world.reports.report(device, report)
    assert await security_events(world) == []


async def test_repeated_indicator_is_told_once(world: UpdateWorld) -> None:
    """A device repeats its last indicator with every manifest, as after a restart; another one is news."""
    device = await world.add_device()
    indicators = ["MetadataExpiredError: expired", "MetadataExpiredError: expired", "", "WrongDeviceError: another"]
    for counter, indicator in enumerate(indicators, 1):
        manifest = VersionManifest(
            device_id=device,
            counter=counter,
            reported_at=world.clock.now(),
            images={},
            attack_indicator=indicator,
            attack=Attack.FREEZE if "Expired" in indicator else None,
        )
        envelope = sign_document(manifest, MANIFEST_PAYLOAD_TYPE, world.device_keys[device])
        await world.manifests.take_alone(device, envelope)
    newest, oldest = await security_events(world)
    assert oldest.data == {"attack": "freeze", "rule": "MetadataExpiredError", "detail": "expired"}
    assert (newest.data["attack"], newest.data["rule"]) == (None, "WrongDeviceError")


async def test_device_that_asks_and_never_comes_is_told_of(world: UpdateWorld) -> None:
    """Drop-request: it polls, but its request for the Director's metadata never arrives."""
    device = await world.add_device()
    action = await begun(world, device)
    world.clock.advance(600)
    await seen(world, device)
    world.clock.advance(TIMEOUT.total_seconds())
    await world.tick()
    (event,) = await security_events(world)
    assert (event.change, event.subject_id) == ("device-unheard", device)
    assert (event.data["attack"], event.data["rule"]) == ("drop-request", "RequestMissing")
    assert (event.data["action_id"], event.data["release"]) == (action.action_id, "second")


@pytest.mark.parametrize("asks", [True, False])
async def test_device_whose_report_never_comes_is_told_of(world: UpdateWorld, *, asks: bool) -> None:
    """Drop-request: it was given the release, and nothing more is heard of it, whether it goes on to poll or not."""
    device = await world.add_device()
    await begun(world, device)
    await world.director.timestamp(device)
    world.clock.advance(600)
    if asks:
        await seen(world, device)
    world.clock.advance(TIMEOUT.total_seconds())
    await world.tick()
    (event,) = await security_events(world)
    assert (event.data["attack"], event.data["rule"]) == ("drop-request", "ReportOverdue")
    assert str(event.data["detail"]).startswith("expected its report, found none; the device was heard of ")
    assert ("never" in str(event.data["detail"])) is not asks


async def test_device_that_is_off_line_is_no_attack(world: UpdateWorld) -> None:
    """A fleet with a tenth of its devices switched off would drown an operator in events."""
    device = await world.add_device()
    await seen(world, device)
    world.clock.advance(60)
    await begun(world, device)
    world.clock.advance(TIMEOUT.total_seconds() + 60)
    await world.tick()
    assert await security_events(world) == []


async def test_events_of_a_type_come_in_pages(world: UpdateWorld) -> None:
    """Newest first, of one device or of all."""
    devices = await world.add_devices(5)
    async with world.unit_of_work() as work:
        for device in devices:
            work.record(Event(EventType.SECURITY, device, "told", world.clock.now()))
            work.record(Event(EventType.DEVICE, device, "renamed", world.clock.now()))
        await work.commit()
    async with world.unit_of_work(read_only=True) as work:
        first = await work.events.page(EventType.SECURITY, before=None, limit=3)
        rest = await work.events.page(EventType.SECURITY, before=first[-1].sequence, limit=3)
        alone = await work.events.page(EventType.SECURITY, before=None, limit=3, subject_id=devices[1])
    assert [stored.event.subject_id for stored in (*first, *rest)] == devices[::-1]
    assert [stored.event.subject_id for stored in alone] == [devices[1]]


async def record_results(world: UpdateWorld, device: str, *results: Appraisal) -> None:
    async with world.unit_of_work() as work:
        for result in results:
            await work.attestations.record({device: result}, at=world.clock.now())
        await work.commit()


_NO_REQUEST = Appraisal(
    (Finding("certificate request", "one that may be certified", "none", Status.CONTRAINDICATED),), Verdict.REFUSED
)
_STALE = Appraisal(
    (
        Finding("nonce", "the service's nonce", "another value", Status.CONTRAINDICATED),
        Finding("life-cycle", "SECURED or NON_PSA_DEBUG", "SECURED", Status.AFFIRMING),
    ),
    Verdict.REFUSED,
)


@pytest.mark.parametrize(
    "refusals",
    [(), (_NO_REQUEST,), (_STALE,)],
    ids=["judged", "no-csr", "stale"],
)
@pytest.mark.parametrize("lifecycle", [LifeCycle.NON_PSA_DEBUG, LifeCycle.SECURED])
async def test_developers_device_gets_no_deployment(
    world: UpdateWorld, lifecycle: LifeCycle, refusals: tuple[Appraisal, ...]
) -> None:
    """Its evidence showed the AppDevelopment capability, so its action is withdrawn, which is no failure.

    No refusal before a judgement makes the service forget it, old evidence of another life cycle neither.
    """
    device = await world.add_device()
    finding = Finding("life-cycle", "SECURED or NON_PSA_DEBUG", lifecycle.name, Status.AFFIRMING)
    fresh = Finding("nonce", "the service's nonce", "that value", Status.AFFIRMING)
    await record_results(world, device, Appraisal((fresh, finding), Verdict.ACCEPTED), *refusals)
    action = await begun(world, device)
    await world.director.timestamp(device)
    async with world.unit_of_work(read_only=True) as work:
        after = await work.actions.get(action.action_id)
        signed = await work.director.find(device)
    assert signed is not None
    if lifecycle is LifeCycle.SECURED:
        assert (after.state, signed.action_id) == (ActionState.OFFERED, action.action_id)
    else:
        assert (after.state, signed.action_id) == (ActionState.CANCELLED, None)
        assert after.detail == "the device has the AppDevelopment capability: no deployment reaches it"
        assert Slot.A7_APPLICATION.value.encode() not in signed.targets
