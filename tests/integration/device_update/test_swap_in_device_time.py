"""A whole model swap in device time: the sibling's events keep their beat, because flash work waits for a gap.

The clock is manual and moves to whatever is due next, so the times are exact and no machine's speed is in them.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from device_sim.cores.device_time import FlashPlacement
from device_sim.hardware.machine import Machine
from device_sim.runtime.device import Device, Surroundings
from device_sim.runtime.trust import CatalogTrust
from device_sim.runtime.work import Behaviour
from device_sim.sensors.fitted import FittedSensors, Surfaces
from device_sim.update.installer import LIVE_FRAMES
from protocol.document import parse_document
from protocol.flash_geometry import FlashGeometry
from protocol.geometry import KIB, Core, Slot
from protocol.messages import ActionState, InferenceRecord
from tests.integration.device_update.attesting_wire import (
    AttestingWire,
    Authorities,
    MemoryNetwork,
    attestable_device,
)
from tests.unit.device_hardware.device_builder import ColourInference
from tests.unit.device_hardware.slow_model import slow_model
from tests.unit.device_update.update_builder import info_of
from tinyml.photos import load_photos

SLOT = Slot.M4_0_MODEL
IMAGE_BYTES = 320 * KIB  # a person detector's
PERIOD = 1.0
SECTOR = FlashGeometry().erase_seconds


class Swap:
    """A device that runs slow models on both cores and is offered a new one for m4-0."""

    def __init__(
        self, folder: Path, placement: FlashPlacement, *, period: float = PERIOD, waits_for_flash: bool = True
    ) -> None:
        self.updated, _ = attestable_device(folder, authorities := Authorities())
        self.updated.machine.close()
        self.builder = self.updated.builder
        self.machine = Machine.open(
            self.updated.folder, clock=self.builder.clock, pool=ColourInference(), placement=placement
        )
        packages = self.builder.packages
        self.machine.flash_factory(
            {slot: packages.model(slot, content=slow_model()) for slot in (SLOT, Slot.M4_1_MODEL)}
        )
        self.wire = AttestingWire(self.updated.catalog, authorities, self.machine)
        self.network = MemoryNetwork(self.wire)
        self.due = 0.0
        self.device = self._device(Behaviour(inference_period_seconds=period, waits_for_flash=waits_for_flash))

    def _device(self, behaviour: Behaviour) -> Device:
        surroundings = Surroundings(
            network=self.network,
            trust=partial(CatalogTrust, self.machine, self.network),
            clock=self.builder.clock,
            rng=Random(1),  # noqa: S311 - jitter
            emit=lambda *_, **__: None,
            wake=lambda: None,
        )
        sensors = FittedSensors(self.machine.device_id, Surfaces(load_photos()))
        return Device(self.machine, sensors, behaviour=behaviour, surroundings=surroundings)

    def offer(self, *, vectors: int = 1) -> None:
        package = self.builder.packages.model(SLOT, version="2.0.0", content=slow_model(), padding=IMAGE_BYTES)
        golden = self.updated.catalog.add_golden(info_of(package).component_id, count=vectors)
        target = self.updated.catalog.add_image(SLOT, package, golden=golden)
        self.updated.catalog.roll_out({SLOT: target})

    def live_until(self, condition: Callable[[], bool]) -> None:
        clock = self.builder.clock
        for _ in range(20_000):
            if condition():
                return
            clock.seconds = max(clock.seconds, self.due)
            self.due = self.device.step(clock.seconds)
        raise AssertionError(f"expected another state in the end, found {self.wire.states}")

    def live_for(self, seconds: float) -> None:
        end = self.builder.clock.seconds + seconds
        self.live_until(lambda: self.due > end)

    def through(self) -> None:
        """Some seconds of peace, the whole swap, some seconds of peace."""
        self.live_for(5)
        self.offer()
        self.wire.waiting = True
        self.live_until(lambda: bool(self.wire.states) and self.wire.states[-1].is_final)
        self.wire.waiting = False
        self.live_until(lambda: self.machine.time.flash_busy_seconds == 0)
        self.live_for(5)

    def records(self, core: Core) -> list[InferenceRecord]:
        messages: list[tuple[str, Any]] = self.network.session_made.link.messages if self.network.session_made else []
        parsed = (parse_document(payload, InferenceRecord) for topic, payload in messages if "inference" in topic)
        return [record for record in parsed if record.core is core]

    def gaps(self, core: Core) -> Iterator[float]:
        moments = [record.device_seconds or 0.0 for record in self.records(core)]
        return (later - earlier for earlier, later in itertools.pairwise(moments))


def test_swap_leaves_the_siblings_events_without_a_gap(tmp_path: Path) -> None:
    """From before the offer until after the copy home, m4-1 answers every period, at most one sector erase late."""
    swap = Swap(tmp_path, FlashPlacement.IN_GAPS)
    swap.through()
    assert swap.wire.states[-1] is ActionState.CONFIRMED
    records = swap.records(Core.M4_1)
    assert [record.sequence for record in records] == list(range(len(records)))
    assert max(swap.gaps(Core.M4_1)) <= PERIOD + SECTOR
    assert {record.error for record in records} == {""}
    assert {record.model for record in swap.records(Core.M4_0)} == {"colour@1.0.0", "colour@2.0.0"}
    assert 0.2 < records[0].m4_ms / 1000 < 0.4


def test_core_time_is_that_of_every_inference_whatever_model_did_it(tmp_path: Path) -> None:
    """A swap changes nothing in what was counted; flash operations are those that the swap took."""
    swap = Swap(tmp_path, FlashPlacement.IN_GAPS)
    before = swap.machine.time.flash_operations
    swap.through()
    for core, figures in swap.device.figures.items():
        assert figures.core_ms == pytest.approx(sum(record.m4_ms for record in swap.records(core)))
    geometry = FlashGeometry()
    programmed = 2 * IMAGE_BYTES // geometry.page_bytes  # to the spare, and home
    assert swap.machine.time.flash_operations - before >= programmed


@pytest.mark.parametrize("waits_for_flash", [True, False])
def test_golden_vectors_take_the_core_while_its_sibling_goes_on(tmp_path: Path, *, waits_for_flash: bool) -> None:
    """Each is an inference of the candidate, on its own core alone; who does not wait has it in device time anyway."""
    swap = Swap(tmp_path, FlashPlacement.IN_GAPS, waits_for_flash=waits_for_flash)
    swap.live_for(5)
    swap.offer(vectors=8)
    swap.wire.waiting = True
    swap.live_until(lambda: swap.wire.states[-1:] == [ActionState.TRIAL])
    began = swap.machine.time.now
    swap.live_until(lambda: swap.wire.states[-1] is ActionState.CONFIRMED)
    swap.wire.waiting = False
    confirmed = swap.machine.time.now
    swap.live_for(60)
    needed = (8 + LIVE_FRAMES) * swap.records(Core.M4_1)[0].m4_ms / 1000
    first = next(it for it in swap.records(Core.M4_0) if it.model == "colour@2.0.0")
    assert (first.device_seconds or 0.0) - began > needed
    assert (confirmed - began > needed) == waits_for_flash
    assert max(swap.gaps(Core.M4_1)) <= PERIOD + SECTOR


def test_swap_without_a_plan_tears_a_gap(tmp_path: Path) -> None:
    """The control: flash work at once stops both cores for as long as erasing the spare takes."""
    swap = Swap(tmp_path, FlashPlacement.AT_ONCE)
    swap.through()
    assert swap.wire.states[-1] is ActionState.CONFIRMED
    assert max(swap.gaps(Core.M4_1)) > PERIOD + 10 * SECTOR


def test_swap_that_does_not_wait_has_the_same_device_time(tmp_path: Path) -> None:
    """An update in a hurry is done sooner by the host's clock; the cores' events are where they would be."""
    swap = Swap(tmp_path, FlashPlacement.IN_GAPS, waits_for_flash=False)
    swap.live_for(5)
    swap.offer()
    swap.wire.waiting = True
    offered = swap.builder.clock.seconds
    swap.live_until(lambda: bool(swap.wire.states) and swap.wire.states[-1].is_final)
    swap.wire.waiting = False
    assert swap.builder.clock.seconds - offered < 8
    assert swap.machine.time.flash_busy_seconds > 8
    swap.live_for(15)
    assert max(swap.gaps(Core.M4_1)) <= PERIOD + SECTOR


@pytest.mark.parametrize("period", [0.28, 0.25])
def test_cores_without_a_pause_give_up_a_share_for_the_update(tmp_path: Path, period: float) -> None:
    """No gap is long enough for an erase, or there is none: the swap ends, and no event is late by more than two."""
    swap = Swap(tmp_path, FlashPlacement.IN_GAPS, period=period)
    swap.through()
    assert swap.wire.states[-1] is ActionState.CONFIRMED
    latency = swap.records(Core.M4_1)[0].m4_ms / 1000
    assert max(swap.gaps(Core.M4_1)) <= max(period, latency) + 2 * SECTOR
