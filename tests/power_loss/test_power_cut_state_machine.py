"""Any sequence of updates, cuts and boots of one flash: Hypothesis looks for one that bricks it."""

import contextlib
import hashlib
from typing import ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from device_sim.errors import PowerCutError
from device_sim.hardware.flash import ERASED, NorFlash
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.slots import SlotStore
from device_sim.hardware.spare import SpareState
from protocol.flash_geometry import FlashGeometry, FlashLayout
from protocol.geometry import HOME_BYTES, KIB, Slot
from tests.power_loss.campaign import EVERYTHING
from tests.power_loss.cut_tally import CutTally

GEOMETRY = FlashGeometry(sector_bytes=KIB, size_bytes=64 * KIB)
SLOT_BYTES = dict.fromkeys(HOME_BYTES, 4 * KIB)
ONE_PLACE = FlashLayout(GEOMETRY, slot_bytes=SLOT_BYTES, spare_bytes=4 * KIB)
TWO_PLACES = FlashLayout(GEOMETRY, slot_bytes=SLOT_BYTES, two_places=frozenset(HOME_BYTES), spare_bytes=0)
MIXED = FlashLayout(GEOMETRY, slot_bytes=SLOT_BYTES, two_places=frozenset({Slot.A7_APPLICATION}), spare_bytes=4 * KIB)
EXAMPLES = 400 if EVERYTHING else 15
SLOTS = st.sampled_from(tuple(HOME_BYTES))
IMAGES = st.integers(1, 3_000).map(lambda size: hashlib.shake_128(size.to_bytes(4, "big")).digest(size))
Cut = tuple[int, float] | None
CUTS = st.one_of(st.none(), st.tuples(st.integers(0, 40), st.sampled_from([0.0, 0.4, 0.97])))


class FlashLife(RuleBasedStateMachine):
    """The oracle knows only which images were confirmed; everything else is the flash."""

    tally: ClassVar = CutTally()

    @initialize(layout=st.sampled_from([ONE_PLACE, TWO_PLACES, MIXED]))
    def make(self, layout: FlashLayout) -> None:
        self.layout = layout
        self.memory = bytearray([ERASED]) * GEOMETRY.size_bytes
        self.slots = self.open(None)
        self.homes = {slot: slot.encode() for slot in HOME_BYTES}
        for slot, image in self.homes.items():
            self.slots.install(slot, image)

    def open(self, cut: Cut) -> SlotStore:
        power = PowerSupply() if cut is None else PowerSupply(fails_at=cut[0], share=cut[1])
        return SlotStore(NorFlash(self.memory, GEOMETRY, power=power), self.layout)

    @rule(slot=SLOTS, image=IMAGES, cut=CUTS, again=CUTS, confirm=st.booleans())
    def update(self, *, slot: Slot, image: bytes, cut: Cut, again: Cut, confirm: bool) -> None:
        """Update a slot; the power may fail, and once more in the boot after that."""
        self.slots = self.open(cut)
        try:
            self.try_image(slot, image)
            if confirm:
                self.slots.confirm(slot)
                self.homes[slot] = image
                self.slots.settle()
            else:
                self.slots.drop()
        except PowerCutError:
            self.boot_after_cut(slot, image, again)

    def try_image(self, slot: Slot, image: bytes) -> None:
        there = self.slots.begin(slot, hashlib.sha256(image).hexdigest(), len(image))
        assert self.slots.read_spare(0, there) == image[:there]
        for start in range(there, len(image), 256):
            self.slots.write(start, image[start : start + 256])
        self.slots.mark_trial(slot)

    def boot_after_cut(self, slot: Slot, image: bytes, again: Cut) -> None:
        self.tally.cut_points += 1
        self.slots = self.open(None)
        if self.slots.spare.state == SpareState.CONFIRMED:
            self.homes[slot] = image  # the record was written when the power failed
        with contextlib.suppress(PowerCutError):
            self.open(again).recover()
        self.slots = self.open(None)
        self.slots.recover()

    @invariant()
    def every_home_holds_what_was_confirmed(self) -> None:
        if hasattr(self, "homes"):
            assert self.slots.spare.state in (SpareState.EMPTY, SpareState.FILLING)
            for slot, image in self.homes.items():
                assert self.open(None).read_home(slot) == image


@pytest.mark.timeout(900)
def test_no_sequence_of_updates_and_cuts_bricks_a_flash(tally: CutTally) -> None:
    """A failure of any sequence is one brick; Hypothesis says the shortest."""
    FlashLife.tally = tally
    with tally.cut("Hypothesis"):
        run_state_machine_as_test(
            FlashLife, settings=settings(max_examples=EXAMPLES, stateful_step_count=15, deadline=None)
        )
