"""What a unit of work promises, kept by SQLite, PostgreSQL and the simulation's storage in memory alike."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from protocol.geometry import Core, Slot
from protocol.health import HealthReport
from protocol.identity import Access
from protocol.messages import ActionState, Cause
from protocol.plan import HealthEvent
from protocol.shadow import ShadowCounts
from service.application.audit import Change
from service.application.device_repositories import IssuedNonce, NoncePurpose
from service.application.disruption_repository import Place
from service.application.events import Event, EventType
from service.application.health_repository import Counted, CountedKind
from service.application.lease_repository import Lease, LeaseLostError
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import DirectorSet, StoredManifest
from service.domain.action import Hold, UnknownActionError
from service.domain.attestation import Appraisal, Finding, Status, Verdict, refusal
from service.domain.device import AlreadyClaimedError, DeviceState
from service.domain.errors import NameTakenError, VersionConflictError
from service.domain.gates.arms import Arm
from service.domain.listening import Listening, Outage
from service.domain.model_health import CoreHealth, CountedWindows, Past
from service.domain.operator import SERVICE
from service.domain.product import Product, UnknownGroupError
from service.domain.release import UnknownReleaseError
from service.domain.retries import retried
from service.domain.rollout import RolloutState, UnknownRolloutError
from service.domain.sites import SiteDevice
from tests.integration.simulation.storages import (
    GROUP,
    IMAGE,
    NOW,
    OTHER_GROUP,
    PRODUCT,
    RELEASE,
    ROLLOUT,
    action,
    add_devices,
    attested,
    device,
    device_id_of,
    postgresql,
    storage,
)

__all__ = ["postgresql", "storage"]


async def test_work_that_is_left_by_an_error_leaves_nothing(storage: UnitOfWorkFactory) -> None:
    """Rows, queues, counters and events are as they were before."""

    async def cut_short() -> None:
        async with storage() as work:
            await add_devices(work, device(1))
            await work.devices.save_attested([attested(device(1))])
            await work.actions.add([action(1)])
            await work.audit.add(SERVICE, Change("test", "1"), at=NOW)
            work.record(Event(EventType.DEVICE, "1", "moved", NOW))
            raise RuntimeError("cut")

    with pytest.raises(RuntimeError, match="cut"):
        await cut_short()
    async with storage(read_only=True) as work:
        assert await work.devices.find(device_id_of(1)) is None
        assert await work.actions.members(GROUP, begins="") == []
        assert await work.actions.scheduled(ROLLOUT, limit=10) == []
        assert await work.actions.due(NOW + timedelta(days=1), limit=10) == []
        assert await work.rollouts.next_look() is None
        assert await work.audit.page(before_id=None, limit=10) == []
        assert await work.events.last_sequence() == 0


async def test_undone_change_of_an_action_leaves_it_in_its_queues(storage: UnitOfWorkFactory) -> None:
    """Also where the queues were read in the transaction that was undone."""
    first = action(1)
    async with storage() as work:
        await add_devices(work, device(1))
        await work.actions.add([first])
        await work.commit()
    async with storage() as work:
        await work.actions.save([replace(first, state=ActionState.CONFIRMED, due_at=None)])
        assert await work.actions.scheduled(ROLLOUT, limit=10) == []
        assert await work.actions.due(NOW + timedelta(days=1), limit=10) == []
        assert await work.rollouts.next_look() is None
    async with storage(read_only=True) as work:
        assert await work.actions.scheduled(ROLLOUT, limit=10) == [first]
        assert await work.actions.due(NOW + timedelta(days=1), limit=10) == [first]
        assert await work.actions.unfinished([first.device_id]) == [first]
        assert await work.rollouts.next_look() == first.due_at


async def test_queues_follow_actions_through_their_lives(storage: UnitOfWorkFactory) -> None:
    """Scheduled by number, deadlines by time, a device's queue by what it works on."""
    actions = [action(1, due=90), action(2, due=30), action(3, due=60)]
    async with storage() as work:
        await add_devices(work, *(device(number) for number in (1, 2, 3)))
        await work.actions.add(actions)
        await work.commit()
    moved = replace(actions[1], state=ActionState.OFFERED, due_at=NOW + timedelta(seconds=120), offered=True)
    done = replace(actions[2], state=ActionState.CONFIRMED, due_at=None)
    async with storage() as work:
        await work.actions.save([moved, done])
        await work.commit()
    async with storage(read_only=True) as work:
        assert await work.actions.scheduled(ROLLOUT, limit=10) == [actions[0]]
        assert await work.actions.due(NOW + timedelta(seconds=200), limit=10) == [actions[0], moved]
        assert await work.actions.due(NOW + timedelta(seconds=200), limit=1) == [actions[0]]
        assert await work.actions.due(NOW + timedelta(seconds=89), limit=10) == []
        assert set(await work.actions.known(ROLLOUT, [device_id_of(3), device_id_of(4)])) == {device_id_of(3)}
        assert await work.actions.queue(device_id_of(3)) == []
        assert await work.actions.newest(device_id_of(3)) == done
        newest = await work.actions.newest_of([device_id_of(3), device_id_of(9)])
        assert newest == {device_id_of(3): done}
        page = await work.actions.page_unfinished(after_number=0, limit=10)
        assert [numbered.action for numbered in page] == [actions[0], moved]
        with pytest.raises(UnknownActionError, match="none of id"):
            await work.actions.get("no action")


async def test_device_works_on_what_it_has_begun_before_what_waits(storage: UnitOfWorkFactory) -> None:
    """The order of a device's queue."""
    waits = action(1)
    begun = replace(action(2, state=ActionState.DOWNLOADING), device_id=device_id_of(1), heals=True)
    async with storage() as work:
        await add_devices(work, device(1))
        await work.actions.add([waits, begun])
        assert await work.actions.queue(device_id_of(1)) == [begun, waits]
        assert await work.actions.unfinished([device_id_of(1)]) == [waits, begun]
        await work.commit()


async def test_members_are_attested_devices_of_the_group_by_id(storage: UnitOfWorkFactory) -> None:
    """By the beginning of their ids, as they stand: who is blocked or has moved away is no member."""
    async with storage() as work:
        await add_devices(work, *(device(number) for number in (5, 1, 4, 2)), device(3, group=OTHER_GROUP))
        await work.devices.save_attested([attested(device(number)) for number in (5, 4, 2, 3)])
        await work.commit()
    async with storage() as work:
        blocked = attested(device(4)).block("test", NOW)
        await work.devices.save(blocked, replaces_version=1)
        assert await work.actions.members(GROUP, begins="") == [device_id_of(2), device_id_of(5)]
        assert await work.actions.members(GROUP, begins=device_id_of(5)) == [device_id_of(5)]
        assert await work.actions.members(GROUP, begins=device_id_of(4)) == []
        assert await work.actions.members(GROUP, begins="1") == []
        assert await work.actions.count_members(GROUP) == 2
    async with storage(read_only=True) as work:
        expected = [device_id_of(number) for number in (2, 4, 5)]
        assert await work.actions.members(GROUP, begins="") == expected
        assert dict(await work.devices.standings())[device_id_of(1)] is DeviceState.CLAIMED


async def test_exposed_devices_are_those_that_were_given_the_release(storage: UnitOfWorkFactory) -> None:
    """By the beginning of their ids, as long as they are of the group."""
    given = [replace(action(number), state=ActionState.OFFERED, offered=True) for number in (3, 1, 2)]
    async with storage() as work:
        await add_devices(work, *(device(number) for number in (1, 2, 3, 4)))
        await work.devices.save_attested([attested(device(number)) for number in (1, 3, 4)])
        await work.actions.add([action(number) for number in (3, 1, 2, 4)])
        await work.actions.save(given)
        assert await work.actions.exposed(ROLLOUT, GROUP, begins="") == [device_id_of(1), device_id_of(3)]
        assert await work.actions.exposed(ROLLOUT, GROUP, begins=device_id_of(3)) == [device_id_of(3)]
        assert await work.actions.count_exposed(ROLLOUT, GROUP) == 2
        healed = [
            replace(action(number), device_id=device_id_of(of), state=ActionState.CONFIRMED, offered=True, heals=True)
            for number, of in ((5, 4), (6, 4), (7, 3))
        ]
        await work.actions.add(healed)
        ids = await work.actions.exposed(ROLLOUT, GROUP, begins="")
        assert ids == [device_id_of(number) for number in (1, 3, 4)]


async def test_exposed_devices_are_in_the_group_whatever_they_run(storage: UnitOfWorkFactory) -> None:
    """Neither one that is in another group, though it runs the release, nor one that is at that update there."""
    ended = [replace(action(number, state=ActionState.CONFIRMED), offered=True) for number in (1, 2, 3)]
    at_it = replace(action(4, state=ActionState.TRIAL), offered=True)
    async with storage() as work:
        await add_devices(work, device(1), device(2), *(device(number, group=OTHER_GROUP) for number in (3, 4)))
        await work.devices.save_attested([attested(device(number)) for number in (1, 2)])
        await work.devices.save_attested([attested(device(number, group=OTHER_GROUP)) for number in (3, 4)])
        await work.actions.add([*ended, at_it])
        for number, digest in ((1, "11" * 32), (2, IMAGE.sha256), (3, IMAGE.sha256)):
            await work.installed.put(device_id_of(number), {Slot.OS: digest}, at=NOW)
        await work.commit()
    async with storage(read_only=True) as work:
        assert sorted(await work.actions.exposed(ROLLOUT, GROUP, begins="")) == [device_id_of(1), device_id_of(2)]
        assert await work.actions.exposed(ROLLOUT, OTHER_GROUP, begins=device_id_of(4)) == [device_id_of(4)]
        assert await work.actions.count_exposed(ROLLOUT, GROUP) == 2
        assert len(await work.actions.exposed(ROLLOUT, GROUP, begins="", limit=1)) == 1


async def test_missed_devices_were_given_a_release_and_have_no_part_in_its_rollback(storage: UnitOfWorkFactory) -> None:
    """By their ids; whoever was never given it is none of them, whoever was cancelled in the rollback is."""
    undoing = "60000000-0000-4000-8000-000000000000"
    async with storage() as work:
        await add_devices(work, *(device(number) for number in (1, 2, 3, 4)))
        await work.actions.add([replace(action(number), offered=number != 4) for number in (3, 1, 2, 4)])
        stored = await work.rollouts.get(ROLLOUT)
        await work.rollouts.add(replace(stored, rollout=replace(stored.rollout, rollout_id=undoing, undoes=ROLLOUT)))
        back = replace(action(5), rollout_id=undoing, device_id=device_id_of(2))
        left = replace(action(6), rollout_id=undoing, device_id=device_id_of(3), state=ActionState.CANCELLED)
        await work.actions.add([back, replace(left, due_at=None)])
        await work.commit()
    async with storage(read_only=True) as work:
        assert await work.actions.missed(ROLLOUT, by=undoing, limit=9) == [device_id_of(1), device_id_of(3)]
        assert await work.actions.missed(ROLLOUT, by=undoing, limit=1) == [device_id_of(1)]
        assert await work.actions.count_missed(ROLLOUT, by=undoing) == 2
        assert await work.actions.count_missed(undoing, by=ROLLOUT) == 0
        everybody = [device_id_of(number) for number in (1, 2, 3)]
        assert await work.actions.missed(ROLLOUT, by=None, limit=9) == everybody
        assert await work.actions.count_missed(ROLLOUT, by=None) == 3


async def test_operator_attestation_and_presence_write_their_own_fields(storage: UnitOfWorkFactory) -> None:
    """None overwrites what another has written meanwhile."""
    async with storage() as work:
        await add_devices(work, device(1))
        await work.devices.touch({device_id_of(1): NOW + timedelta(minutes=5), device_id_of(9): NOW})
        await work.devices.save_attested([attested(device(1))])
        found = await work.devices.find(device_id_of(1))
        assert found is not None
        assert (found.access, found.last_seen_at) == (Access.FULL, NOW + timedelta(minutes=5))
        await work.devices.save(found.block("lost", NOW), replaces_version=1)
        with pytest.raises(VersionConflictError, match="expected 1 in force"):
            await work.devices.save(found, replaces_version=1)
        await work.commit()
    async with storage(read_only=True) as work:
        after = await work.devices.get(device_id_of(1))
        assert (after.state, after.access) == (DeviceState.BLOCKED, Access.FULL)


async def test_device_is_claimed_once(storage: UnitOfWorkFactory) -> None:
    """A second claim is refused."""
    async with storage() as work:
        await add_devices(work, device(1))
        with pytest.raises(AlreadyClaimedError, match="expected an unclaimed device"):
            await work.devices.add(device(1))


async def test_nonce_serves_once_and_not_after_its_end(storage: UnitOfWorkFactory) -> None:
    """Taken away even where it has expired."""
    nonces = [
        IssuedNonce(device_id_of(number), NoncePurpose.ATTEST, bytes(32), NOW + timedelta(seconds=number))
        for number in (1, 9)
    ]
    wanted = [(device_id_of(number), NoncePurpose.ATTEST) for number in (1, 9)]
    async with storage() as work:
        await add_devices(work, device(1), device(9))
        await work.attestations.put_nonces(nonces)
        taken = await work.attestations.take_nonces(wanted, now=NOW + timedelta(seconds=5))
        assert taken == {wanted[1]: bytes(32)}
        assert await work.attestations.take_nonces(wanted, now=NOW) == {}


async def test_equal_results_extend_a_record_and_findings_keep_their_beginning(storage: UnitOfWorkFactory) -> None:
    """A change says which findings are new."""

    def result(*found: str) -> Appraisal:
        findings = tuple(Finding("os", expected="x", found=text, status=Status.AFFIRMING) for text in found)
        return Appraisal(findings, Verdict.ACCEPTED)

    later, last = NOW + timedelta(hours=1), NOW + timedelta(hours=2)
    who = device_id_of(1)
    async with storage() as work:
        await add_devices(work, device(1))
        assert await work.attestations.record({who: result("a")}, at=NOW) == [who]
        assert await work.attestations.record({who: result("a")}, at=later) == []
        assert await work.attestations.record({who: result("a", "b")}, at=last) == [who]
        record = await work.attestations.latest(who)
        assert record is not None
        assert (record.since, record.times) == (last, 1)
        assert [finding.since for finding in record.appraisal.findings] == [NOW, last]


async def test_refusal_before_a_judgement_is_the_newest_result_and_not_the_latest(storage: UnitOfWorkFactory) -> None:
    """The latest is the last that judged the device; the same judgement after a refusal is no change."""
    who = device_id_of(1)
    fresh = Finding("nonce", expected="x", found="x", status=Status.AFFIRMING)
    judged = Appraisal((fresh,), Verdict.QUARANTINED)
    refused, otherwise = (refusal("evidence", expected="some", found=text) for text in ("none", "other"))

    async def records(work: UnitOfWork) -> list[tuple[Appraisal, int, datetime | None]]:
        found = [await work.attestations.latest(who), await work.attestations.newest(who)]
        return [(one.appraisal, one.times, one.appraisal.findings[0].since) for one in found if one is not None]

    async with storage() as work:
        await add_devices(work, device(1))
        assert await records(work) == []
        steps: tuple[tuple[Appraisal, list[str], list[tuple[Appraisal, int, int]]], ...] = (
            (refused, [who], [(refused, 1, 0), (refused, 1, 0)]),  # never judged: the last refusal
            (otherwise, [who], [(otherwise, 1, 1), (otherwise, 1, 1)]),
            (judged, [who], [(judged, 1, 2), (judged, 1, 2)]),
            (refused, [who], [(judged, 1, 2), (refused, 1, 3)]),
            (refused, [], [(judged, 1, 2), (refused, 2, 3)]),
            (judged, [], [(judged, 1, 2), (judged, 1, 2)]),
            (judged, [], [(judged, 2, 2), (judged, 2, 2)]),
        )
        for hours, (result, changed, expected) in enumerate(steps):
            assert await work.attestations.record({who: result}, at=NOW + timedelta(hours=hours)) == changed
            in_hours = [(one, times, NOW + timedelta(hours=since)) for one, times, since in expected]
            assert await records(work) == in_hours, hours


async def test_versions_of_director_and_manifests_only_rise(storage: UnitOfWorkFactory) -> None:
    """What is as old or older is not taken."""
    last = DirectorSet(device_id_of(1), 5, None, b"t", b"s", b"m", 0, NOW)
    manifest = StoredManifest(device_id_of(1), 3, "", b"{}", NOW)
    async with storage() as work:
        await add_devices(work, device(1), device(2))
        assert await work.director.put(last)
        assert not await work.director.put(last)
        assert await work.director.find(device_id_of(1)) == last
        assert list(await work.installed.put_manifests([manifest])) == [device_id_of(1)]
        newcomer = replace(manifest, device_id=device_id_of(2))
        older = replace(manifest, counter=2)
        assert list(await work.installed.put_manifests([newcomer, older])) == [device_id_of(2)]
        found = await work.installed.manifests([device_id_of(1), device_id_of(2), device_id_of(3)])
        assert found == {device_id_of(1): manifest, device_id_of(2): newcomer}
        assert not await work.installed.put_manifests([manifest, newcomer])
        assert not await work.installed.put_manifests([])


async def test_what_runs_is_kept_by_slot(storage: UnitOfWorkFactory) -> None:
    """A report of some slots leaves the others."""
    async with storage() as work:
        await add_devices(work, device(1))
        await work.installed.put(device_id_of(1), {Slot.OS: "a" * 64, Slot.M4_0_MODEL: "b" * 64}, at=NOW)
        await work.installed.put_all({device_id_of(1): {Slot.M4_0_MODEL: "c" * 64}, device_id_of(2): {}}, at=NOW)
        found = await work.installed.of([device_id_of(1), device_id_of(2)])
        assert found == {device_id_of(1): {Slot.OS: "a" * 64, Slot.M4_0_MODEL: "c" * 64}}


def health(number: int, *, sequence: int = 1, model: str = "a" * 64) -> CoreHealth:
    report = HealthReport(
        core=Core.M4_0, model_sha256=model, sequence=sequence, since=NOW, until=NOW, frames=40, classes={"person": 40}
    )
    return CoreHealth.begun(device_id_of(number), report, NOW + timedelta(seconds=number))


async def test_health_of_models_is_kept_by_device_and_core(storage: UnitOfWorkFactory) -> None:
    """The newest in the place of the one before, its past whole; what is old is forgotten."""
    async with storage() as work:
        await add_devices(work, device(1), device(2))
        await work.health.put([health(1), health(2)])
        newer = replace(
            health(1, sequence=2),
            before=Past(6, 0.5, 30.0, 1000.0, {"none": 1.0}),
            counted=CountedWindows(NOW, 7, NOW, frozenset({HealthEvent.CRASH, HealthEvent.DRIFT})),
        )
        await work.health.put([newer])
        found = await work.health.of([device_id_of(1), device_id_of(3)])
        assert found == {(device_id_of(1), Core.M4_0): newer}
        await work.health.forget(received_before=NOW + timedelta(seconds=2))
        assert list(await work.health.of([device_id_of(1), device_id_of(2)])) == [(device_id_of(2), Core.M4_0)]


async def test_gate_counts_a_device_once(storage: UnitOfWorkFactory) -> None:
    """The first word stays; devices are told by gate, in pages, and are never forgotten."""
    async with storage() as work:
        await add_devices(work, device(1), device(2))
        first = [Counted(ROLLOUT, "drift", device_id_of(n), Arm.CANARY, "drift", f"{n}", NOW) for n in (2, 1)]
        await work.health.count(first)
        await work.health.count([replace(first[0], detail="again"), replace(first[0], gate="other")])
        assert await work.health.counted(ROLLOUT, [device_id_of(2), device_id_of(3)]) == {
            device_id_of(2): frozenset({"drift", "other"})
        }
        page = await work.health.page_counted(ROLLOUT, after=None, limit=2)
        assert [(each.gate, each.detail) for each in page] == [("drift", "1"), ("drift", "2")]
        rest = await work.health.page_counted(ROLLOUT, after=("drift", device_id_of(2)), limit=5)
        assert [each.gate for each in rest] == ["other"]
        assert len(await work.health.page_counted(ROLLOUT, after=None, limit=5, gate="drift")) == 2
        kinds = await work.health.counted_kinds(ROLLOUT)
        assert sum(kinds.values()) == 3
        for kind, devices in kinds.items():
            found = await work.health.first_counted(ROLLOUT, kind, limit=5)
            assert {CountedKind(each.gate, each.arm, each.what) for each in found} == {kind}
            assert len(found) == devices
            assert await work.health.first_counted(ROLLOUT, kind, limit=1) == found[:1]
        await work.health.forget(received_before=NOW + timedelta(seconds=1))
        assert len(await work.health.page_counted(ROLLOUT, after=None, limit=5)) == 3


async def test_gate_forgets_whom_it_has_counted_in_a_period(storage: UnitOfWorkFactory) -> None:
    """Of that gate and those events alone; the period ends before its end."""
    later = NOW + timedelta(hours=1)
    said = [
        (1, "drift", "crash", NOW),
        (2, "drift", "offline", NOW),
        (3, "drift", "crash", later),
        (1, "other", "crash", NOW),
    ]
    async with storage() as work:
        await add_devices(work, device(1), device(2), device(3))
        counted = [Counted(ROLLOUT, gate, device_id_of(n), Arm.CANARY, what, "", at) for n, gate, what, at in said]
        await work.health.count(counted)
        gone = await work.health.uncount(ROLLOUT, "drift", events={"crash", "drift"}, since=NOW, before=later)
        assert gone == {device_id_of(1)}
        assert await work.health.uncount(ROLLOUT, "drift", events={"crash"}, since=NOW, before=later) == set()
        left = await work.health.page_counted(ROLLOUT, after=None, limit=5)
        assert [(each.gate, each.device_id) for each in left] == sorted(
            [("drift", device_id_of(2)), ("drift", device_id_of(3)), ("other", device_id_of(1))]
        )


async def test_actions_and_last_words_of_many_devices_are_found_at_once(storage: UnitOfWorkFactory) -> None:
    """By device; those without are left out."""
    async with storage() as work:
        await add_devices(work, device(1), device(2), device(3, group=OTHER_GROUP))
        await work.devices.save_attested([attested(device(1)), attested(device(3, group=OTHER_GROUP))])
        await work.actions.add([action(1)])
        await work.devices.touch(dict.fromkeys(map(device_id_of, (1, 2, 3)), NOW))
        both = [device_id_of(1), device_id_of(2)]
        assert await work.actions.of_devices(ROLLOUT, both) == {device_id_of(1): action(1)}
        assert await work.devices.last_seen(GROUP, [*both, device_id_of(3)]) == {device_id_of(1): NOW}


async def test_rollouts_are_found_by_state_time_and_action(storage: UnitOfWorkFactory) -> None:
    """And saved with a version that rises."""
    async with storage() as work:
        before = await work.rollouts.get(ROLLOUT, lock=True)
        running = replace(before.rollout, state=RolloutState.RUNNING)
        await work.rollouts.save(replace(before, rollout=running, look_at=NOW), before=before)
        await add_devices(work, device(1))
        await work.actions.add([action(1)])
        stored = await work.rollouts.of_action(action(1).action_id)
        assert stored is not None
        assert (stored.version, stored.rollout.state) == (before.version + 1, RolloutState.RUNNING)
        assert await work.rollouts.due(NOW, limit=5) == [ROLLOUT]
        assert await work.rollouts.due(NOW - timedelta(seconds=1), limit=5) == []
        assert [each.rollout.rollout_id for each in await work.rollouts.of_group(GROUP)] == [ROLLOUT]
        assert await work.rollouts.states() == {ROLLOUT: (RolloutState.RUNNING, GROUP)}
        assert await work.rollouts.finished(GROUP, limit=5) == []
        assert await work.rollouts.of_action("none") is None
        with pytest.raises(UnknownRolloutError, match="expected an id in use"):
            await work.rollouts.get("none")


async def test_names_are_taken_once_and_unknown_ones_are_named(storage: UnitOfWorkFactory) -> None:
    """Products, groups and releases."""
    async with storage() as work:
        group = await work.products.get_group("Production", product_id=PRODUCT)
        assert group.group_id == GROUP
        with pytest.raises(UnknownGroupError, match="Nowhere"):
            await work.products.get_group("Nowhere")
        with pytest.raises(UnknownReleaseError, match="none"):
            await work.releases.get("none")
        assert await work.metadata.images_of([IMAGE.sha256, "b" * 64]) == {IMAGE.sha256: IMAGE.listed}
        assert await work.releases.newest_with([IMAGE.sha256]) == {IMAGE.sha256: "r1"}
        assert (await work.releases.get("r1")).release_id == RELEASE
    async with storage() as work:
        with pytest.raises(NameTakenError, match="Camera"):
            await work.products.add(Product(OTHER_GROUP, "Camera", "", created_at=NOW), [])


async def test_lease_is_held_by_one_until_it_ends(storage: UnitOfWorkFactory) -> None:
    """A gap that is too long counts as an outage."""
    minute, gap = timedelta(minutes=1), timedelta(minutes=5)
    async with storage() as work:
        first = await work.leases.acquire("tick", "a", now=NOW, lifetime=minute, largest_gap=gap)
        assert first is not None
        assert await work.leases.acquire("tick", "b", now=NOW, lifetime=minute, largest_gap=gap) is None
        await work.leases.advance("tick", "a", 7)
        later = NOW + timedelta(minutes=2)
        second = await work.leases.acquire("tick", "b", now=later, lifetime=minute, largest_gap=gap)
        assert second is not None
        assert (second.event_sequence, second.listening) == (7, Listening(NOW))
        await work.leases.release("tick", "b", now=later)
        much_later = NOW + timedelta(hours=1)
        third = await work.leases.acquire("tick", "a", now=much_later, lifetime=minute, largest_gap=gap)
        assert third is not None
        assert third.listening == Listening(NOW, (Outage(later, much_later),))


async def test_owner_whose_lease_was_taken_over_cannot_advance(storage: UnitOfWorkFactory) -> None:
    """What it did since is not committed; one whose lease has only ended still holds it."""
    minute = timedelta(minutes=1)

    async def take(owner: str, now: datetime) -> Lease | None:
        async with storage() as work:
            taken = await work.leases.acquire("tick", owner, now=now, lifetime=minute, largest_gap=minute)
            await work.commit()
        return taken

    async def advance(owner: str, sequence: int) -> None:
        async with storage() as work:
            await add_devices(work, device(sequence))
            await work.leases.advance("tick", owner, sequence)
            await work.commit()

    with pytest.raises(LeaseLostError, match="tick: expected it to be held by a"):
        await advance("a", 1)
    await take("a", NOW)
    await advance("a", 2)
    await take("b", NOW + 2 * minute)
    with pytest.raises(LeaseLostError, match="held by a, found it taken over"):
        await advance("a", 3)
    await advance("b", 4)
    found = await take("b", NOW + 3 * minute)
    assert found is not None
    assert found.event_sequence == 4
    async with storage(read_only=True) as work:
        stored = [await work.devices.find(device_id_of(number)) is not None for number in range(1, 5)]
    assert stored == [False, True, False, True]


async def test_device_that_put_its_update_off_was_not_given_the_release(storage: UnitOfWorkFactory) -> None:
    """Unless another action of the rollout has given it, or it is given it again; what is undone changes nothing."""
    once, again, healed = (replace(action(number, state=ActionState.OFFERED), offered=True) for number in (1, 2, 3))
    by_healing = replace(action(4, state=ActionState.CONFIRMED), device_id=healed.device_id, offered=True, heals=True)
    put_off = [replace(each, state=ActionState.SCHEDULED, offered=False) for each in (once, again, healed)]
    async with storage() as work:
        await add_devices(work, device(1), device(2), device(3))
        await work.devices.save_attested([attested(device(number)) for number in (1, 2, 3)])
        await work.actions.add([once, again, healed, by_healing])
        await work.commit()
    async with storage() as work:
        await work.actions.save(put_off)
        assert list(await work.actions.exposed(ROLLOUT, GROUP, begins="")) == [healed.device_id]
    async with storage() as work:
        assert await work.actions.count_exposed(ROLLOUT, GROUP) == 3
        await work.actions.save(put_off)
        await work.actions.save([again])
        found = await work.actions.exposed(ROLLOUT, GROUP, begins="")
        assert sorted(found) == [again.device_id, healed.device_id]


async def test_events_come_in_the_order_of_their_commits(storage: UnitOfWorkFactory) -> None:
    """With numbers that rise by one."""
    for number in range(3):
        async with storage() as work:
            work.record(Event(EventType.DEVICE, str(number), "moved", NOW))
            assert await work.commit() == number + 1
    async with storage(read_only=True) as work:
        assert [stored.event.subject_id for stored in await work.events.after(1)] == ["1", "2"]
        assert [stored.sequence for stored in await work.events.after(0, limit=2)] == [1, 2]
        assert await work.events.last_sequence() == 3


async def test_attributes_are_stored_in_the_place_of_earlier_ones(storage: UnitOfWorkFactory) -> None:
    """Whole, and as before where the work was not committed."""
    one, two = device_id_of(1), device_id_of(2)
    async with storage() as work:
        await add_devices(work, device(1), device(2))
        await work.attributes.put({one: {"site": "a", "ring": "b"}, two: {"site": "a"}})
        await work.attributes.put({two: {}})
        await work.commit()
    async with storage() as work:
        await work.attributes.put({one: {"site": "c"}, two: {"ring": "d"}})
    async with storage() as work:
        assert await work.attributes.of([one, two]) == {one: {"site": "a", "ring": "b"}}
        await work.attributes.put({one: {"site": "c"}})
        await work.commit()
    async with storage(read_only=True) as work:
        assert await work.attributes.of([one]) == {one: {"site": "c"}}
        assert await work.attributes.of([]) == {}


async def test_devices_of_a_site_are_found_by_place(storage: UnitOfWorkFactory) -> None:
    """Each attribute of a rollout has its own; a change keeps the place, and one that is undone leaves nothing."""
    first, second = (SiteDevice(device_id_of(number), "site", "=x", number) for number in (1, 2))
    other = SiteDevice(first.device_id, "ring", "=x", 1)
    async with storage() as work:
        await add_devices(work, device(1), device(2))
        await work.sites.put(ROLLOUT, [second, first, other])
        await work.commit()
    failed = replace(first, causes=frozenset({Cause.BOOT, Cause.SILENT}), is_settled=True)
    async with storage() as work:
        await work.sites.put(ROLLOUT, [failed])
        assert (await work.sites.find(ROLLOUT, "site", [failed.device_id]))[failed.device_id] == failed
    async with storage() as work:
        assert await work.sites.members(ROLLOUT, "site", ["=x", "=y"]) == {"=x": [first, second]}
        await work.sites.put(ROLLOUT, [failed])
        await work.commit()
    async with storage(read_only=True) as work:
        assert await work.sites.members(ROLLOUT, "site", ["=x"]) == {"=x": [failed, second]}
        assert await work.sites.members(ROLLOUT, "ring", ["=x"]) == {"=x": [other]}
        assert await work.sites.find(RELEASE, "site", [first.device_id]) == {}


async def test_failed_devices_are_found_by_cause_and_time(storage: UnitOfWorkFactory) -> None:
    """The same by either storage: how many, those that failed first, and those that ended badly by number."""
    ended = [
        replace(
            action(number),
            state=ActionState.FAILED,
            cause=cause,
            progressed_at=NOW + timedelta(minutes=10 - number),
            due_at=None,
            offered=True,
        )
        for number, cause in ((1, Cause.BOOT), (2, Cause.BOOT), (3, Cause.DOWNLOAD))
    ]
    again = retried(ended[2], now=NOW + timedelta(hours=1), pause=timedelta(hours=1), timeout=timedelta(days=1))
    async with storage() as work:
        await add_devices(work, *(device(number) for number in (1, 2, 3, 4)))
        await work.actions.add([action(number) for number in (1, 2, 3, 4)])
        await work.actions.save([*ended[:2], again])
        await work.commit()
    boot, download = frozenset({Cause.BOOT}), frozenset({Cause.DOWNLOAD})
    late, early = NOW + timedelta(hours=2), NOW + timedelta(minutes=8)
    async with storage(read_only=True) as work:
        assert await work.actions.failed(ROLLOUT, until=late) == {boot: 2, download: 1}
        assert await work.actions.failed(ROLLOUT, until=early) == {boot: 1, download: 1}
        first = await work.actions.first_failed(ROLLOUT, boot, until=late, limit=1)
        assert [each.device_id for each in first] == [device_id_of(2)]
        assert await work.actions.first_failed(ROLLOUT, download, until=late, limit=5) == [again]
        badly = await work.actions.ended_badly(ROLLOUT, after_number=1, limit=5)
        assert [each.action for each in badly] == [ended[1]]


async def test_devices_that_compared_are_found_by_what_they_found(storage: UnitOfWorkFactory) -> None:
    """The same by either storage: how many agree and how many do not, the oldest first; no other rollout's."""
    found = {1: False, 2: True, 3: False}
    counts = ShadowCounts(frames=10, agreements=6, differing={"red > blue": 4})
    said = [replace(action(number), shadow=counts, agrees=agrees) for number, agrees in found.items()]
    async with storage() as work:
        await add_devices(work, *(device(number) for number in (1, 2, 3, 4)))
        await work.actions.add([action(number) for number in (1, 2, 3, 4)])
        await work.actions.save(said)
        await work.commit()
    async with storage(read_only=True) as work:
        assert await work.actions.compared(ROLLOUT) == {False: 2, True: 1}
        assert await work.actions.first_compared(ROLLOUT, agrees=False, limit=1) == [said[0]]
        assert await work.actions.first_compared(ROLLOUT, agrees=True, limit=5) == [said[1]]
        assert await work.actions.compared(RELEASE) == {}


async def test_held_actions_come_in_the_order_of_their_times(storage: UnitOfWorkFactory) -> None:
    """Those of one rollout whose time has come; a pause before a retry is no part of it, nor is what a place holds."""
    first, second, third, retry = (
        replace(action(number), hold=hold, not_before=NOW + timedelta(minutes=minutes))
        for number, minutes, hold in (
            (1, 2, Hold.WINDOW),
            (2, 1, Hold.DEFERRAL),
            (3, 9, Hold.BUDGET),
            (4, 0, Hold.RETRY),
        )
    )
    waiting = replace(action(5), hold=Hold.BUDGET, place="site=quay")
    async with storage() as work:
        await add_devices(work, *map(device, range(1, 6)))
        await work.actions.add([first, second, third, retry, waiting])
        await work.commit()
    async with storage() as work:
        assert await work.actions.held(ROLLOUT, until=NOW + timedelta(minutes=2), limit=10) == [second, first]
        assert await work.actions.held(ROLLOUT, until=NOW + timedelta(hours=1), limit=1) == [second]
        assert await work.actions.held("another", until=NOW + timedelta(hours=1), limit=1) == []
        kinds = {Hold.WINDOW: 1, Hold.DEFERRAL: 1, Hold.BUDGET: 2, Hold.RETRY: 1}
        assert await work.actions.holds(ROLLOUT) == kinds
        assert await work.actions.first_holding(ROLLOUT, Hold.BUDGET, limit=9) == [third, waiting]
        assert await work.actions.first_holding(ROLLOUT, Hold.BUDGET, limit=1) == [third]
        await work.actions.save([replace(second, hold=None, not_before=None)])
        assert await work.actions.first_held(ROLLOUT) == first.not_before
    async with storage() as work:
        assert await work.actions.first_held(ROLLOUT) == second.not_before
        await work.actions.save([replace(each, state=ActionState.CANCELLED, due_at=None) for each in (first, second)])
        await work.actions.save([replace(third, not_before=None)])
        assert await work.actions.first_held(ROLLOUT) is None
        assert await work.actions.get(waiting.action_id) == waiting
        await work.commit()


async def test_place_knows_who_is_at_work_called_and_waiting(storage: UnitOfWorkFactory) -> None:
    """Wherever they began, whatever their rollout; of those that wait, running rollouts' alone."""
    quay, airport = Place("site", "quay"), Place("site", "airport")
    working = [action(1, state=ActionState.OFFERED), action(2, state=ActionState.TRIAL)]
    waiting = [replace(action(number), hold=Hold.BUDGET, place=str(quay)) for number in (4, 3)]
    called = replace(action(5), hold=Hold.BUDGET, place=str(quay), not_before=NOW)
    come = replace(action(6), place=str(quay))
    async with storage() as work:
        await add_devices(work, *map(device, range(1, 8)))
        sites: dict[str, dict[str, str]] = {device_id_of(number): {"site": "quay"} for number in range(1, 7)}
        await work.attributes.put({**sites, device_id_of(7): {"site": "airport", "ring": "quay"}})
        await work.actions.add([*working, *waiting, called, come])
        await work.disruptions.begin(working)
        await work.commit()
    async with storage() as work:
        disruptions = work.disruptions
        await disruptions.hold(quay)
        assert set(await disruptions.at_work(quay, limit=5)) == {device_id_of(1), device_id_of(2)}
        assert len(await disruptions.at_work(quay, limit=1)) == 1
        assert (await disruptions.members(quay), await disruptions.members(airport)) == (6, 1)
        assert (list(await disruptions.waiting(quay, limit=5)), await disruptions.called(quay, since=NOW)) == ([], 0)
        assert await disruptions.is_anybody_waiting()
        stored = await work.rollouts.get(ROLLOUT)
        running = replace(stored, rollout=replace(stored.rollout, state=RolloutState.RUNNING))
        await work.rollouts.save(running, before=stored)
        assert list(await disruptions.waiting(quay, limit=5)) == waiting
        assert list(await disruptions.waiting(quay, limit=1)) == waiting[:1]
        assert await disruptions.called(quay, since=NOW - timedelta(seconds=1)) == 2
        assert await disruptions.called(quay, since=NOW) == 1
        assert list(await disruptions.waited_for([airport, quay, Place("ring", "quay")])) == [quay]
        assert list(await disruptions.waited_for_by([ROLLOUT])) == [quay]
        assert list(await disruptions.waited_for_by(["another"])) == []
        await work.actions.save([replace(each, hold=None) for each in waiting])
        assert not await disruptions.is_anybody_waiting()


async def test_device_is_at_work_where_it_began_and_where_it_has_come_to(storage: UnitOfWorkFactory) -> None:
    """Until it ends, which says what has become free; what is undone changes nothing."""
    first, second = (action(number, state=ActionState.TRIAL) for number in (1, 2))
    quay, airport = Place("site", "quay"), Place("site", "airport")
    async with storage() as work:
        await add_devices(work, device(1), device(2), device(3))
        await work.attributes.put({device_id_of(1): {"site": "quay", "ring": "b"}, device_id_of(3): {"site": "quay"}})
        await work.actions.add([first, second])
        await work.disruptions.begin([first, second])
        await work.attributes.put({device_id_of(1): {"site": "airport"}})
        assert list(await work.disruptions.at_work(quay, limit=5)) == [first.device_id]
        assert list(await work.disruptions.at_work(airport, limit=5)) == []
        await work.disruptions.begin([first])
        await work.disruptions.begin([first])
        assert list(await work.disruptions.at_work(airport, limit=5)) == [first.device_id]
        await work.commit()
    everywhere = {first.action_id: [Place("ring", "b"), airport, quay]}
    for _ in range(2):
        async with storage() as work:
            assert await work.disruptions.end([first.action_id, second.action_id, "another"]) == everywhere
            assert await work.disruptions.end([first.action_id]) == {}
            assert list(await work.disruptions.at_work(quay, limit=5)) == []


async def test_undone_wait_leaves_its_place(storage: UnitOfWorkFactory) -> None:
    """Queues of places are undone with the rest."""
    quay = Place("site", "quay")
    async with storage() as work:
        await add_devices(work, device(1))
        await work.actions.add([action(1)])
        await work.commit()
    async with storage() as work:
        await work.actions.save([replace(action(1), hold=Hold.BUDGET, place=str(quay))])
        assert await work.disruptions.is_anybody_waiting()
    async with storage(read_only=True) as work:
        assert not await work.disruptions.is_anybody_waiting()
