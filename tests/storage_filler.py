"""Fills a device's secure storage, as metadata and reports would that nobody takes away."""

import pytest

from device_sim.errors import StorageFullError
from device_sim.hardware import secure_storage
from device_sim.hardware.secure_storage import RESERVED_BYTES, SecureStorage
from protocol.geometry import KIB

FILLER = "filler"


def shrink_storage(monkeypatch: pytest.MonkeyPatch) -> int:
    """Have secure storage take little more than its reserve, so that it is full soon; return how many bytes."""
    small = RESERVED_BYTES + 256 * KIB
    monkeypatch.setattr(secure_storage, "MAX_STORAGE_BYTES", small)
    return small


def fill_storage(storage: SecureStorage, *, reserve: str = "") -> None:
    """Fill it to its last byte, or nearly.

    Args:
        storage: to fill.
        reserve: name under which the reserve is filled, too; it is left free if there is none.
    """
    for name in (FILLER, reserve) if reserve else (FILLER,):
        _fill(storage, name)


def _fill(storage: SecureStorage, name: str) -> None:
    """Find the largest value that the name takes."""
    taken, step = 0, secure_storage.MAX_STORAGE_BYTES
    while step:
        try:
            storage.put(name, bytes(taken + step))
        except StorageFullError:
            step //= 2
        else:
            taken += step
