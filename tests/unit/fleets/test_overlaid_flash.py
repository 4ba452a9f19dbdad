"""Flash with a shared base: a device reads what it wrote, its neighbours do not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from device_sim.errors import DeviceFolderError
from device_sim.hardware.flash import NorFlash
from device_sim.hardware.overlay import (
    LOCK_FILE,
    SHARED_FOLDER,
    OverlaidMemory,
    link_flash,
    open_flash_memory,
    read_flash,
    share_flash,
)
from device_sim.hardware.power import PowerSupply
from protocol.flash_geometry import FlashGeometry

GEOMETRY = FlashGeometry()
CELLS = bytes(range(256)) * (GEOMETRY.size_bytes // 256)


@pytest.fixture
def neighbours(tmp_path: Path) -> list[Path]:
    """Two devices with the same flash."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
        share_flash(folder, CELLS)
    return folders


def test_equal_flash_is_kept_once(neighbours: list[Path]) -> None:
    """Both have links to one file, and are opened as what they are."""
    one, other = ((folder / "flash.base").stat() for folder in neighbours)
    assert one.st_ino == other.st_ino
    memory = open_flash_memory(neighbours[0] / "flash.bin", GEOMETRY)
    assert len(memory) == GEOMETRY.size_bytes
    memory.close()


def test_what_a_device_writes_is_its_own_and_outlives_it(neighbours: list[Path]) -> None:
    """Erase and write through the chip, over the border of a sector; read again after it was opened anew."""
    memory = OverlaidMemory(neighbours[0], GEOMETRY)
    flash = NorFlash(memory, GEOMETRY, power=PowerSupply())
    for sector in (1, 2):
        flash.erase(sector * GEOMETRY.sector_bytes)
    border = 2 * GEOMETRY.sector_bytes
    flash.write(border - 256, b"\xab" * 512)
    memory.close()
    again = OverlaidMemory(neighbours[0], GEOMETRY)
    assert again[border - 257 : border + 257] == b"\xff" + b"\xab" * 512 + b"\xff"
    assert again[0:4096] == CELLS[0:4096]
    again.close()
    assert read_flash(neighbours[0])[border : border + 256] == b"\xab" * 256
    assert read_flash(neighbours[1]) == CELLS
    overlay = (neighbours[0] / "flash.overlay").stat()
    assert overlay.st_blocks * 512 < 64 * 1024


def test_new_base_forgets_what_was_changed(neighbours: list[Path]) -> None:
    """As after a flash of factory images."""
    memory = OverlaidMemory(neighbours[0], GEOMETRY)
    memory[0:16] = b"\0" * 16
    memory.close()
    link_flash(neighbours[0], neighbours[1] / "flash.base")
    assert read_flash(neighbours[0]) == CELLS


def test_device_in_use_is_not_opened_twice(neighbours: list[Path]) -> None:
    """Neither by this process nor by another one; a neighbour is, and so is the device once it is let go."""
    memory = OverlaidMemory(neighbours[0], GEOMETRY)
    with pytest.raises(DeviceFolderError, match="in use"):
        OverlaidMemory(neighbours[0], GEOMETRY)
    code = (
        "import sys; from pathlib import Path; from protocol.flash_geometry import FlashGeometry;"
        "from device_sim.hardware.overlay import OverlaidMemory; OverlaidMemory(Path(sys.argv[1]), FlashGeometry())"
    )
    ends = [
        subprocess.run([sys.executable, "-c", code, folder], capture_output=True, check=False) for folder in neighbours
    ]
    assert [end.returncode for end in ends] == [1, 0], ends
    assert b"in use" in ends[0].stderr
    memory.close()
    memory.close()
    OverlaidMemory(neighbours[0], GEOMETRY).close()


def test_base_of_another_size_is_refused(neighbours: list[Path]) -> None:
    """A folder that is not of the geometry it names is no device, and stays free."""
    share_flash(neighbours[0], b"\xff" * 4096)
    for _ in range(2):
        with pytest.raises(DeviceFolderError, match=r"flash\.base: expected"):
            OverlaidMemory(neighbours[0], GEOMETRY)


@pytest.mark.parametrize("change", [-256, -1, 1], ids=["sectors' bytes gone", "one byte short", "one byte more"])
def test_overlay_of_another_size_is_refused(change: int, neighbours: list[Path]) -> None:
    """What the device has changed is not forgotten without a word; the device stays free."""
    memory = OverlaidMemory(neighbours[0], GEOMETRY)
    memory[0:16] = bytes(16)
    memory.close()
    overlay = neighbours[0] / "flash.overlay"
    content = overlay.read_bytes()
    whole = len(content)
    os.truncate(overlay, whole + change)
    for _ in range(2):
        with pytest.raises(DeviceFolderError, match=rf"flash\.overlay: expected {whole} bytes, found {whole + change}"):
            OverlaidMemory(neighbours[0], GEOMETRY)
    overlay.write_bytes(content)
    assert read_flash(neighbours[0]) == bytes(16) + CELLS[16:]


def test_overlay_is_whole_before_it_is_there(neighbours: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill while it is made leaves a device without one."""
    memory = OverlaidMemory(neighbours[0], GEOMETRY)

    def killed(source: Path, target: Path) -> Path:
        del source, target
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            memory[0:16] = bytes(16)
    memory.close()
    assert read_flash(neighbours[0]) == CELLS


def test_lock_file_is_closed_with_the_last_device(neighbours: list[Path]) -> None:
    """A process keeps one descriptor for a neighbourhood, and none once nobody of it runs, refused or not."""
    lock_file = neighbours[0].parent / SHARED_FOLDER / LOCK_FILE
    one, other = (OverlaidMemory(folder, GEOMETRY) for folder in neighbours)
    one.close()
    one.close()
    assert _opened(lock_file) == 1
    with pytest.raises(DeviceFolderError, match="in use"):
        OverlaidMemory(neighbours[1], GEOMETRY)
    other.close()
    assert _opened(lock_file) == 0


def test_device_of_another_process_leaves_no_lock_file_open(neighbours: list[Path]) -> None:
    """A refusal is all that comes of it."""
    lock_file = neighbours[0].parent / SHARED_FOLDER / LOCK_FILE
    program = (
        "import pathlib, sys; from device_sim.hardware.overlay import OverlaidMemory; "
        "from protocol.flash_geometry import FlashGeometry; "
        "held = OverlaidMemory(pathlib.Path(sys.argv[1]), FlashGeometry()); print(1, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(neighbours[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"1\n"
        with pytest.raises(DeviceFolderError, match="in use"):
            OverlaidMemory(neighbours[0], GEOMETRY)
        assert _opened(lock_file) == 0
        holder.communicate()


def _opened(path: Path) -> int:
    """How often this process has a file open."""
    return sum(link.resolve() == path.resolve() for link in Path("/proc/self/fd").iterdir())
