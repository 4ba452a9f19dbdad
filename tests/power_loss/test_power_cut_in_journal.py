"""The journal of the trailers: a cut in any write leaves the state before it or after it, and either copy is enough."""

import pytest

from device_sim.errors import PowerCutError
from device_sim.hardware.flash import ERASED, NorFlash
from device_sim.hardware.journal import TrailerJournal
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.spare import Spare, SpareState
from protocol.flash_geometry import FlashGeometry, FlashLayout
from protocol.geometry import HOME_BYTES, KIB
from tests.power_loss.cut_tally import CutTally

LAYOUT = FlashLayout(
    FlashGeometry(sector_bytes=KIB, size_bytes=32 * KIB), slot_bytes=dict.fromkeys(HOME_BYTES, KIB), spare_bytes=KIB
)
SLOT = LAYOUT.slots[0]
RECORDS = 20  # more than two turns of both sectors of a copy
SHARES = (0.0, 0.4, 0.97)


def state(number: int) -> Spare:
    return Spare(SpareState.FILLING, SLOT, f"{number:064x}", number)


def journal(memory: bytearray, power: PowerSupply | None = None) -> TrailerJournal:
    return TrailerJournal(NorFlash(memory, LAYOUT.geometry, power=power or PowerSupply()), LAYOUT)


def blank() -> bytearray:
    return bytearray([ERASED]) * LAYOUT.geometry.size_bytes


def written(records: int) -> bytearray:
    memory = blank()
    kept = journal(memory)
    for number in range(1, records + 1):
        kept.write_spare(state(number))
    return memory


def write_with_cut(memory: bytearray, number: int, power: PowerSupply) -> bool:
    """Write one record; return whether the power failed."""
    try:
        journal(memory, power).write_spare(state(number))
    except PowerCutError:
        return True
    return False


@pytest.mark.parametrize("records", range(RECORDS))
def test_cut_in_a_record_leaves_the_state_before_or_after_it(records: int, tally: CutTally) -> None:
    """Every operation, three ways to fail, and again in the write that repeats it."""
    before = Spare() if records == 0 else state(records)
    after = state(records + 1)
    for first, second, share in [(a, b, share) for a in range(4) for b in range(4) for share in SHARES]:
        with tally.cut(f"record {records + 1}, operations {first} and {second}, share {share}"):
            memory = written(records)
            write_with_cut(memory, records + 1, PowerSupply(fails_at=first, share=share))
            found = journal(memory).state.spare
            assert found in (before, after)
            write_with_cut(memory, records + 1, PowerSupply(fails_at=second, share=share))
            assert journal(memory).state.spare in (found, after)
            journal(memory).write_spare(state(records + 2))
            assert journal(memory).state.spare == state(records + 2)


@pytest.mark.parametrize("records", range(1, RECORDS))
@pytest.mark.parametrize("copy", [0, 1])
def test_either_copy_of_the_journal_is_enough(records: int, copy: int) -> None:
    """A copy whose sectors are lost takes nothing with it."""
    memory = written(records)
    half = LAYOUT.trailer.size_bytes // 2
    start = LAYOUT.trailer.offset + copy * half
    memory[start : start + half] = bytes(half)
    assert journal(memory).state.spare == state(records)
