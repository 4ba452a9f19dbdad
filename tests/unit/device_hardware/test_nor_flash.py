"""The flash changes by erase and aligned writes only, and keeps what a kill leaves in its file."""

from pathlib import Path

import pytest

from device_sim.errors import DeviceFolderError, FlashMisuseError, PowerCutError
from device_sim.hardware.flash import ERASED, NorFlash, map_flash_file
from device_sim.hardware.power import PowerSupply
from protocol.flash_geometry import PAGE_BYTES, FlashGeometry
from protocol.geometry import KIB

GEOMETRY = FlashGeometry(sector_bytes=KIB, size_bytes=4 * KIB)
ROW = bytes(range(16))


def flash(memory: bytearray | None = None, power: PowerSupply | None = None) -> NorFlash:
    cells = memory if memory is not None else bytearray([ERASED]) * GEOMETRY.size_bytes
    return NorFlash(cells, GEOMETRY, power=power or PowerSupply())


def test_written_bytes_are_read_until_the_sector_is_erased() -> None:
    """An erase takes one sector, not its neighbour."""
    chip = flash()
    chip.write(16, ROW)
    chip.write(KIB, ROW)
    chip.erase(0)
    assert chip.is_erased(0, KIB)
    assert chip.read(KIB, 16) == ROW


@pytest.mark.parametrize(
    ("offset", "data", "match"),
    [
        (8, ROW, "row's start"),
        (0, ROW[:8], "whole rows"),
        (4 * KIB, ROW, "range within"),
        (-16, ROW, "range within"),
        (4 * KIB - 16, ROW * 2, "range within"),
    ],
)
def test_misaligned_or_outlying_write_is_refused(offset: int, data: bytes, match: str) -> None:
    """What hardware cannot do raises."""
    with pytest.raises(FlashMisuseError, match=match):
        flash().write(offset, data)


def test_write_without_erase_is_refused() -> None:
    """Programming twice would AND the bytes; the chip's rules forbid it."""
    chip = flash()
    chip.write(0, ROW)
    with pytest.raises(FlashMisuseError, match="16 erased bytes"):
        chip.write(0, ROW)


def test_erase_inside_a_sector_is_refused() -> None:
    """A sector is erased from its start."""
    with pytest.raises(FlashMisuseError, match="sector's start"):
        flash().erase(16)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_power_cut_in_a_write_leaves_a_part_of_it(share: float) -> None:
    """A torn write: whole rows, one mixed row, then erased bytes; nothing works afterwards."""
    memory = bytearray([ERASED]) * GEOMETRY.size_bytes
    chip = flash(memory, PowerSupply(fails_at=0, share=share))
    with pytest.raises(PowerCutError, match="operation 0"):
        chip.write(0, bytes(64))
    with pytest.raises(PowerCutError, match="cut in operation 0"):
        chip.read(0, 1)
    done = int(64 * share)
    assert memory[:done] == bytes(done)
    assert memory[done + 16 : 64].count(ERASED) == 64 - done - 16
    if share:
        assert len(set(memory[done : done + 16])) > 2


def test_torn_row_is_another_in_each_operation_and_the_same_again() -> None:
    """A campaign that cuts many operations meets many rows; a failure of one is repeated."""
    rows = []
    for before in (0, 1, 1):
        memory = bytearray([ERASED]) * GEOMETRY.size_bytes
        chip = flash(memory, PowerSupply(fails_at=before, share=0.5))
        for _ in range(before):
            chip.erase(KIB)
        with pytest.raises(PowerCutError):
            chip.write(0, bytes(64))
        rows.append(bytes(memory))
    assert rows[1] == rows[2]
    assert rows[0] != rows[1]


def test_power_cut_in_an_erase_leaves_a_part_of_the_sector() -> None:
    """A partial erase: the rest holds what was there."""
    memory = bytearray(GEOMETRY.size_bytes)
    with pytest.raises(PowerCutError, match="operation 0"):
        flash(memory, PowerSupply(fails_at=0, share=0.5)).erase(0)
    assert memory[:512].count(ERASED) == 512
    assert memory[512 + 16 : KIB] == bytes(512 - 16)


def test_long_write_is_one_operation_per_page() -> None:
    """A power-loss test can cut between pages."""
    power = PowerSupply()
    flash(power=power).write(240, ROW * 32)
    assert power.operations == 3  # 16 bytes, 256 bytes, 240 bytes


def test_flash_file_has_one_machine_at_a_time(tmp_path: Path) -> None:
    """A second map of a chip is refused while the first one is open, and taken after it."""
    path = tmp_path / "flash.bin"
    path.write_bytes(bytes(GEOMETRY.size_bytes))
    memory = map_flash_file(path, GEOMETRY)
    with pytest.raises(DeviceFolderError, match="found it in use"):
        map_flash_file(path, GEOMETRY)
    memory.close()
    map_flash_file(path, GEOMETRY).close()


def test_flash_file_keeps_what_was_written_without_closing_it(tmp_path: Path) -> None:
    """A kill of the simulator is no loss: the file has every finished operation."""
    path = tmp_path / "flash.bin"
    path.write_bytes(bytes([ERASED]) * GEOMETRY.size_bytes)
    memory = map_flash_file(path, GEOMETRY)
    NorFlash(memory, GEOMETRY, power=PowerSupply()).write(KIB, ROW)
    assert path.read_bytes()[KIB : KIB + 16] == ROW
    memory.close()


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_missing_or_short_flash_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    """A folder without its flash says what was expected."""
    path = tmp_path / "flash.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DeviceFolderError, match=f"expected {GEOMETRY.size_bytes} bytes"):
        map_flash_file(path, GEOMETRY)


def test_observer_is_told_how_long_each_operation_occupies_the_chip() -> None:
    """One erase, then two pages that a write of one page touches; a cut operation lasts for its share."""
    told: list[float] = []
    memory, geometry = bytearray([ERASED]) * KIB, FlashGeometry(sector_bytes=KIB, size_bytes=KIB)
    chip = NorFlash(memory, geometry, power=PowerSupply(fails_at=3, share=0.5), busy=told.append)
    chip.erase(0)
    chip.write(PAGE_BYTES - 16, ROW * 2)
    with pytest.raises(PowerCutError):
        chip.erase(0)
    assert told == [0.045, 0.0004, 0.0004, 0.0225]
