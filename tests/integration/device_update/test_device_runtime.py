"""A device's whole life, step by step under a manual clock: boot, attest, work, and what may come between."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from device_sim.network.ports import HttpResponse, UnreachableError
from device_sim.runtime.device import Device, Surroundings
from device_sim.runtime.timetable import NEVER
from device_sim.runtime.trust import CatalogTrust
from device_sim.runtime.work import Behaviour
from device_sim.sensors.fitted import FittedSensors, Surfaces
from protocol.document import parse_document
from protocol.geometry import Core, Slot
from protocol.health import HEALTH_STREAM, HealthReport
from protocol.messages import CHECK_UPDATE, ActionState, InferenceRecord
from protocol.topics import telemetry_topic
from tests.integration.device_update.attesting_wire import (
    AttestingWire,
    Authorities,
    MemoryNetwork,
    attestable_device,
)
from tests.unit.device_update.update_builder import ACTION, Updated
from tinyml.photos import Photo

GREY = Photo(name="grey", pixels=np.full((64, 64, 3), 100, np.uint8), shows_person=False, expected="grey")


@dataclass
class Life:
    """A device and everything around it; its clock moves to whatever is due next."""

    updated: Updated
    wire: AttestingWire
    network: MemoryNetwork
    events: list[dict[str, Any]] = field(default_factory=list)
    wakes: int = 0
    due: float = 0.0
    device: Device = field(init=False)

    def __post_init__(self) -> None:
        machine = self.updated.machine
        surroundings = Surroundings(
            network=self.network,
            trust=partial(CatalogTrust, machine, self.network),
            clock=self.updated.builder.clock,
            rng=Random(1),  # noqa: S311 - jitter
            emit=lambda event, **fields: self.events.append({"event": event, **fields}),
            wake=self._wake,
        )
        sensors = FittedSensors(machine.device_id, Surfaces([GREY]))
        self.device = Device(machine, sensors, behaviour=Behaviour(), surroundings=surroundings)

    def _wake(self) -> None:
        self.wakes += 1

    @property
    def names(self) -> list[str]:
        return [event["event"] for event in self.events]

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def step(self) -> None:
        clock = self.updated.builder.clock
        clock.seconds = max(clock.seconds, self.due)
        self.due = self.device.step(clock.seconds)

    def live_until(self, condition: Callable[[], bool]) -> None:
        for _ in range(2000):
            if condition():
                return
            self.step()
        raise AssertionError(f"expected something else after 2000 steps, found {self.names[-20:]}")

    def live_for(self, seconds: float) -> None:
        end = self.updated.builder.clock.seconds + seconds
        self.live_until(lambda: self.due > end)


@pytest.fixture
def life(tmp_path: Path) -> Life:
    updated, wire = attestable_device(tmp_path, Authorities())
    return Life(updated, wire, MemoryNetwork(wire))


def link(life: Life) -> Any:
    assert life.network.session_made is not None
    return life.network.session_made.link


def test_device_boots_attests_and_reports_what_it_sees(life: Life) -> None:
    """A few seconds after its start a device sends one record per core and second, and its manifest."""
    life.live_for(5)
    assert life.names[:3] == ["booted", "connected", "attested"]
    assert len(life.wire.manifests) == 1
    topic = telemetry_topic(life.updated.machine.device_id, "inference")
    assert {sent for sent, _ in link(life).messages} == {topic}
    records = [parse_document(payload, InferenceRecord) for _, payload in link(life).messages]
    for core in (Core.M4_0, Core.M4_1):
        own = [record for record in records if record.core is core]
        assert [record.sequence for record in own] == list(range(len(own)))
        assert 4 <= len(own) <= 6
        assert own[0].model == "colour@1.0.0"
        assert own[0].label == "red"


def test_tampered_device_stops_in_its_boot_and_gets_nowhere(life: Life) -> None:
    """No request leaves a device that does not boot."""
    life.updated.machine.tamper(Slot.OS)
    life.step()
    (stopped,) = life.named("boot-stopped")
    assert (stopped["stage"], life.due) == ("os", NEVER)
    assert life.wire.requests == []
    life.step()
    assert life.names == ["boot-stopped"]


def test_device_says_which_voucher_it_refused_and_works_on(life: Life) -> None:
    """A forged one in the letter box of a claimed device."""
    (life.updated.folder / "voucher.json").write_bytes(b"forged")
    life.live_until(lambda: "attested" in life.names)
    (refused,) = life.named("voucher-refused")
    assert "expected a DSSE envelope" in refused["reason"]


def test_unclaimed_device_follows_no_catalog(life: Life) -> None:
    """Without a voucher nothing is asked of anybody."""
    (life.updated.folder / "voucher.json").unlink()
    life.updated.machine.storage.update({"voucher": None})  # it was claimed to be made
    life.step()
    assert life.names == ["booted", "unclaimed"]
    assert (life.due, life.wire.requests) == (NEVER, [])


def test_refused_device_asks_again_ever_more_rarely(life: Life) -> None:
    """The reason is told; nothing but attestation is tried; once it is let in, it works."""
    life.wire.refusal = "os: expected a reference value, found another"
    pauses = []
    for _ in range(6):
        life.step()
        pauses.append(life.due - life.updated.builder.clock.seconds)
    refusals = life.named("refused")
    assert [event["reason"] for event in refusals] == [life.wire.refusal] * 5
    assert pauses[-1] > 2 * pauses[1]
    assert {path.removeprefix("/device/v1") for path in life.wire.requests} == {"/attest/nonce"}
    life.wire.refusal = ""
    life.live_until(lambda: "attested" in life.names)


def test_unreachable_service_is_tried_again(life: Life) -> None:
    """A device that starts before its service waits for it."""
    life.wire.hook = lambda _path, _headers: UnreachableError("connection refused")
    life.live_until(lambda: len(life.named("retry")) == 3)
    life.wire.hook = lambda _path, _headers: None
    life.live_until(lambda: "attested" in life.names)


def test_certificate_is_renewed_at_half_of_its_life(life: Life) -> None:
    """The link shows the new certificate; HTTPS goes on. The first renewal after a boot may come earlier."""
    life.wire.lifetime = timedelta(seconds=100)
    renewed = []
    for number in range(1, 5):
        life.live_until(lambda number=number: life.wire.issued == number)  # type: ignore[misc]
        renewed.append(life.updated.builder.clock.seconds)
    first, *others = (later - earlier for earlier, later in itertools.pairwise(renewed))
    assert 4 <= first <= 52
    assert all(44 <= pause <= 52 for pause in others)
    assert life.network.session_made is not None
    assert len(life.network.session_made.credentials) == 4
    assert link(life).connections == 4


def test_device_that_lost_its_access_attests_anew(life: Life) -> None:
    """A poll that is refused leads back to attestation, where the device hears why."""
    life.live_until(lambda: "attested" in life.names)
    life.wire.poll_status, life.wire.refusal = 403, "the device is blocked"
    life.live_until(lambda: "refused" in life.names)
    assert life.names.index("access-lost") < life.names.index("refused")
    sent = len(link(life).messages)
    life.live_until(lambda: len(life.named("refused")) == 3)
    assert len(link(life).messages) == sent
    life.wire.poll_status, life.wire.refusal = 200, ""
    life.live_until(lambda: len(link(life).messages) > sent)


def test_command_brings_the_update_before_the_next_poll(life: Life) -> None:
    """Woken over MQTT, the device polls, updates and reports while its cores go on."""
    life.live_for(2)
    life.updated.offer_model()
    life.wire.waiting = True
    link(life).events.command("unknown-command", b"")
    assert life.wakes == 0
    link(life).events.command(CHECK_UPDATE, b"")
    assert life.wakes == 1
    life.due = life.updated.builder.clock.seconds
    life.live_until(lambda: ActionState.CONFIRMED in life.wire.states)
    life.wire.waiting = False
    assert [event["state"] for event in life.named("update")] == ["downloading", "installing", "trial", "confirmed"]
    life.live_for(3)
    assert len(life.wire.manifests) == 2
    records = [parse_document(payload, InferenceRecord) for _, payload in link(life).messages]
    assert {record.model for record in records if record.core is Core.M4_0} == {"colour@1.0.0", "colour@2.0.0"}
    assert life.device.figures[Core.M4_0].model == "colour@2.0.0"


def test_new_application_attests_before_it_is_confirmed(life: Life) -> None:
    """The A7's trial leads through a new attestation and a poll."""
    slot = Slot.A7_APPLICATION
    package = life.updated.builder.packages.image(slot, version="2.0.0")
    life.updated.catalog.roll_out({slot: life.updated.catalog.add_image(slot, package)})
    life.wire.waiting = True
    life.live_until(lambda: ActionState.CONFIRMED in life.wire.states)
    assert life.wire.issued == 2
    assert life.updated.machine.installed()[slot].name == "application@2.0.0"


def test_refused_application_reverts_and_the_old_one_is_let_in(life: Life) -> None:
    """An application that is not among the reference values does not stay."""
    slot = Slot.A7_APPLICATION
    package = life.updated.builder.packages.image(slot, version="2.0.0")
    life.updated.catalog.roll_out({slot: life.updated.catalog.add_image(slot, package)})
    life.live_until(lambda: "attested" in life.names)
    life.wire.waiting, life.wire.refusal = True, "a7/application: expected a reference value"
    life.live_until(lambda: ActionState.REVERTED in life.wire.states)
    (reverted,) = life.named("reverted")
    assert reverted["cause"] == "boot"
    assert "a7/application: expected a reference value" in reverted["detail"]
    assert life.updated.machine.installed()[slot].name == "application@1.0.0"


def test_report_that_does_not_get_through_is_sent_later(life: Life) -> None:
    """The end of an update reaches the service after its connection is back."""
    life.live_for(1)
    life.updated.offer_model()
    life.wire.waiting = True
    life.wire.hook = lambda path, _headers: UnreachableError("reset") if path.endswith("/reports") else None
    life.live_until(lambda: "confirmed" in [event["state"] for event in life.named("update")])
    life.wire.waiting = False
    assert life.wire.reports == []
    life.wire.hook = lambda _path, _headers: None
    life.live_until(lambda: ActionState.CONFIRMED in life.wire.states)
    assert [report.sequence for report in life.wire.reports] == [0, 1, 2, 3]


def test_report_that_the_service_refuses_does_not_block_the_others(life: Life) -> None:
    """A report of an action that the service does not know is told once and dropped."""
    life.live_for(1)
    life.updated.offer_model()
    life.wire.waiting = True
    refused: list[str] = []

    def refuse_first(path: str, _headers: Mapping[str, str]) -> HttpResponse | None:
        if path.endswith("/reports") and not refused:
            refused.append(path)
            return HttpResponse(404, {}, b'{"detail": "no such action"}')
        return None

    life.wire.hook = refuse_first
    life.live_until(lambda: ActionState.CONFIRMED in life.wire.states)
    (told,) = life.named("report-refused")
    assert "no such action" in told["reason"]
    assert [report.sequence for report in life.wire.reports] == [1, 2, 3]


def test_interrupted_update_goes_on_after_a_restart_without_an_offer(life: Life) -> None:
    """What was begun is finished and reported although the service offers nothing more."""
    life.live_for(1)
    package = life.updated.offer_model()
    life.wire.waiting = True
    life.live_until(lambda: bool(life.updated.machine.spare.length))
    life.wire.waiting = False
    life.updated.machine.close()
    life.updated.machine = life.updated.builder.open(life.updated.folder)
    again = Life(life.updated, life.wire, MemoryNetwork(life.wire))
    again.due = life.updated.builder.clock.seconds
    again.live_until(lambda: ActionState.CONFIRMED in again.wire.states)
    assert life.wire.reports[-1].action_id == ACTION
    assert again.updated.machine.installed()[Slot.M4_0_MODEL].digest in life.wire.reports[-1].digests.values()
    assert package


def test_counts_are_told_now_and_then_and_at_the_end(life: Life) -> None:
    """Counts name messages and, per core, events, model and median latency."""
    life.live_for(25)
    assert len(life.named("counts")) == 2
    life.device.drain(1.0)
    life.device.close()
    last = life.named("counts")[-1]
    assert last["sent"] == last["acknowledged"] == life.device.counts.sent > 40
    assert last["cores"]["m4-1"]["model"] == "colour@1.0.0"
    assert last["flash_operations"] == 0
    assert (
        last["cores"]["m4-1"]["core_ms"] == last["cores"]["m4-1"]["p50_ms_m4"] == 0.0
    )  # the colour model multiplies nothing
    assert not link(life).connected


@pytest.mark.parametrize("off", [timedelta(minutes=20), timedelta(days=3)], ids=["in-the-window", "beyond-it"])
def test_sums_of_a_device_that_was_switched_off_are_of_the_right_time(life: Life, off: timedelta) -> None:
    """It starts without the time, and infers only once it was told: a window goes on, or ends where it was cut."""
    clock, begun = life.updated.builder.clock, life.wire.now
    life.live_for(120)
    life.device.close()
    cut = clock.seconds
    clock.seconds += off.total_seconds()
    life.wire.now = begun + timedelta(seconds=clock.seconds)
    life.updated.machine = life.updated.builder.open(life.updated.folder)
    assert life.updated.machine.clock.now() < life.wire.now - off / 2
    again = Life(life.updated, life.wire, MemoryNetwork(life.wire))
    again.due = clock.seconds
    again.live_for(120)
    clock.seconds += 2 * 3600
    again.live_for(2)
    told = sorted(health_told(again), key=lambda report: report.since)
    found = [(moment - begun).total_seconds() for each in told for moment in (each.since, each.until)]
    start = cut + off.total_seconds()
    goes_on = off < timedelta(hours=1)
    expected = [0, start + 120] if goes_on else [0, cut, start, start + 120]
    assert found == pytest.approx(expected, abs=15)
    assert sum(each.frames for each in told) == pytest.approx(240, abs=20)


def health_told(life: Life) -> list[HealthReport]:
    """What the device said of the model on its first core."""
    topic = telemetry_topic(life.updated.machine.device_id, HEALTH_STREAM)
    reports = [parse_document(payload, HealthReport) for sent, payload in link(life).messages if sent == topic]
    return [report for report in reports if report.core is Core.M4_0]
