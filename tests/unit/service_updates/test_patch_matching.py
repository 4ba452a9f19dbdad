"""How patches are made: what moved, what changed a little everywhere, and what is new."""

import hashlib
import struct
import subprocess
import sys

import pytest

from protocol.delta import PatchError, Record
from protocol.geometry import KIB
from service.adapters import patch_process
from service.adapters.patch_process import LENGTHS, applied, correlated, make_patch, matched

WEIGHTS = hashlib.shake_128(b"weights").digest(40 * KIB)
SMALL = bytes(byte % 32 for byte in WEIGHTS)


def moved(weights: bytes) -> bytes:
    """Every weight one up or down, by its position."""
    return bytes((weight + (1 if index % 3 else -1)) % 256 for index, weight in enumerate(weights))


@pytest.mark.parametrize("before", [b"", b"a longer card", bytes(300)])
def test_weights_that_all_changed_a_little_are_found_beside_where_they_were(before: bytes) -> None:
    """Matching finds nothing, correlation does; also when everything moved along."""
    new = before + moved(WEIGHTS)
    patch = make_patch(WEIGHTS, new)
    assert applied(patch, WEIGHTS) == new
    assert len(patch) < len(new) // 5


def test_image_without_its_beginning_is_found_again() -> None:
    """Bytes were taken out before it."""
    new = moved(WEIGHTS[777:])
    patch = make_patch(WEIGHTS, new)
    assert applied(patch, WEIGHTS) == new
    assert len(patch) < len(new) // 5


def test_stretch_of_new_weights_is_taken_as_it_is() -> None:
    """Small new weights beside large old ones: their differences would be larger than they are."""
    new = WEIGHTS[: 8 * KIB] + SMALL[8 * KIB : 16 * KIB] + WEIGHTS[16 * KIB :]
    records = list(correlated(WEIGHTS, new, group_bytes=len(new)))
    assert records == [Record(0, 8 * KIB, 0), Record(0, 0, 8 * KIB), Record(16 * KIB, 24 * KIB, 0)]


def test_parts_that_changed_places_are_matched() -> None:
    """As a linker does with functions."""
    new = WEIGHTS[20 * KIB :] + WEIGHTS[: 20 * KIB]
    assert sum(record.copied for record in matched(WEIGHTS, new)) > 39 * KIB
    patch = make_patch(WEIGHTS, new)
    assert applied(patch, WEIGHTS) == new
    assert len(patch) < 1 * KIB


@pytest.mark.parametrize(("old", "new"), [(b"a", b"b"), (b"a" * 9, b"b"), (b"a", b"b" * 5000), (bytes(5000), bytes(9))])
def test_smallest_images_are_patched(old: bytes, new: bytes) -> None:
    """Shorter than a stretch, and longer than what they come from."""
    assert applied(make_patch(old, new), old) == new


def test_image_that_is_none_is_refused() -> None:
    """Rather than half a patch."""
    with pytest.raises(PatchError, match="expected 1 to"):
        make_patch(b"old", b"")


def _child(given: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", patch_process.__name__]
    return subprocess.run(command, input=given, capture_output=True, check=False)


def test_child_makes_the_same_patch() -> None:
    """Two lengths and two images in, a patch out."""
    old, new = b"old" * 99, b"old" * 98 + b"new"
    assert _child(LENGTHS.pack(len(old), len(new)) + old + new).stdout == make_patch(old, new)


def test_child_whose_parent_died_writes_nothing() -> None:
    """Its input ended early."""
    child = _child(struct.pack("<II", 9, 9) + b"old")
    assert (child.returncode, child.stdout) == (1, b"")
    assert b"expected 9 and 9 bytes, found 3" in child.stderr
