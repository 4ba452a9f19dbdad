"""The memory of a core: where things lie, and what happens when there is no room."""

import pytest

from device_sim.cores.memory import RUNTIME_BYTES, SYSRAM, TCM, XIP_FLASH, MemoryBudget, OutOfMemoryError
from device_sim.errors import CoreLoadError
from protocol.geometry import KIB, Core, Slot
from tests.unit.device_hardware.device_builder import ColourInference, DeviceBuilder


def test_regions_lie_where_the_chip_has_them() -> None:
    """Azure Sphere samples, linker.ld."""
    found = [(region.address, region.size_bytes) for region in (TCM, XIP_FLASH, SYSRAM)]
    assert found == [(0x0010_0000, 192 * KIB), (0x1000_0000, 1024 * KIB), (0x2200_0000, 64 * KIB)]


def test_running_core_has_runtime_arena_and_room_for_what_it_learns(builder: DeviceBuilder) -> None:
    """Addresses are aligned, and nothing overlaps."""
    machine = builder.ready(pool=ColourInference())
    machine.boot()
    memory = machine.cores[Core.M4_0].memory
    learned = memory.claim("learned state", 4 * KIB, regions=(SYSRAM, TCM))
    runtime, arena, last = memory.allocations
    assert (runtime.purpose, runtime.region, runtime.address) == ("runtime", SYSRAM, SYSRAM.address)
    assert (arena.purpose, arena.region, arena.size_bytes) == ("arena", TCM, 4096)
    assert (last, last.address) == (learned, SYSRAM.address + RUNTIME_BYTES)
    assert memory.free_bytes(SYSRAM) == 36 * KIB


def test_arena_that_fits_no_region_is_refused() -> None:
    """TCM and SYSRAM are not contiguous: 200 KiB are there together, and nowhere."""
    memory = MemoryBudget(Core.M4_1)
    memory.claim("runtime", RUNTIME_BYTES, regions=(SYSRAM, TCM))
    with pytest.raises(OutOfMemoryError, match="m4-1, arena: expected 1 to 196608 bytes in TCM or 40960 bytes in SYS"):
        memory.claim("arena", 200 * KIB)
    assert issubclass(OutOfMemoryError, CoreLoadError)


def test_second_of_a_kind_and_nothing_at_all_are_refused() -> None:
    """A purpose is claimed once, and for at least a byte."""
    memory = MemoryBudget(Core.M4_0)
    memory.claim("arena", 100)
    with pytest.raises(OutOfMemoryError, match="expected one arena, found a second"):
        memory.claim("arena", 100)
    with pytest.raises(OutOfMemoryError, match="found 0 bytes"):
        memory.claim("nothing", 0)


def test_what_is_given_back_can_be_given_again() -> None:
    """The last of a region makes room for the next; SYSRAM is used where TCM is full."""
    memory = MemoryBudget(Core.M4_0)
    memory.claim("arena", 190 * KIB)
    assert memory.claim("learned state", 4 * KIB).region == SYSRAM
    memory.release("arena")
    memory.release("never claimed")
    assert memory.free_bytes(TCM) == TCM.size_bytes
    memory.clear()
    assert memory.allocations == ()


def test_model_that_does_not_fit_is_reported_and_its_sibling_runs(builder: DeviceBuilder) -> None:
    """The core with too large an arena does not start; the boot says why."""
    machine = builder.ready(pool=ColourInference())
    machine.flash_factory({Slot.M4_0_MODEL: builder.packages.model(Slot.M4_0_MODEL, arena=193 * KIB)})
    report = machine.boot()
    assert "arena: expected 1 to 196608 bytes in TCM" in str(report.stopped_cores[Core.M4_0])
    assert machine.cores[Core.M4_1].is_running
