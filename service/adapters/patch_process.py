"""The process that makes one patch: matching and coding take seconds of one core, and no poll is to wait for them.

    python -m service.adapters.patch_process < u32 lengths, old image, new image > patch

A patch is made from two sets of records, and each of its groups takes the one that codes it shorter:
    - bsdiff's matching (bsdiff4): finds what moved, and takes as it is what has no counterpart;
    - correlation: for each group the part of the old image that differs least from it. Weights that all changed a
      little match nowhere, but still lie beside those that they come from; those that are new are taken as they are.
The process applies what it made as a device does and compares; what is not the new image is not written. If whoever
started it is gone, it ends.
"""

import contextlib
import os
import struct
import sys
from collections.abc import Iterator
from itertools import groupby

import numpy as np
from bsdiff4 import core

from protocol.delta import GROUP_BYTES, Record, apply_patch, read_header, write_patch

LENGTHS = struct.Struct("<II")
_NICENESS = 10
_STRETCH_BYTES = 256
_NUMBER_BYTES = 8  # of bsdiff's control numbers


def make_patch(old: bytes, new: bytes) -> bytes:
    """Return the shortest patch that matching and correlation give."""
    return write_patch(old, new, candidates=[list(matched(old, new)), list(correlated(old, new))])


def matched(old: bytes, new: bytes) -> Iterator[Record]:
    """Yield the records of bsdiff's matching."""
    control, _, _ = core.diff(old, new)
    numbers = [core.decode_int64(control[at : at + _NUMBER_BYTES]) for at in range(0, len(control), _NUMBER_BYTES)]
    start = 0
    for copied, literals, skipped in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
        if copied or literals:
            yield Record(start if copied else 0, copied, literals)
        start += copied + skipped


def correlated(old: bytes, new: bytes, *, group_bytes: int = GROUP_BYTES) -> Iterator[Record]:
    """Yield records that compare each group with the part of the old image which differs least from it."""
    size = 1 << (len(old) + group_bytes).bit_length()
    signal = _signal(old)
    spectrum, energy = np.fft.rfft(signal, size), np.concatenate(([0.0], np.cumsum(signal**2)))
    for begin in range(0, len(new), group_bytes):
        group = new[begin : begin + group_bytes]
        shifts = np.arange(1 - len(group), len(old))
        likeness = np.fft.irfft(spectrum * np.conj(np.fft.rfft(_signal(group), size)), size)[shifts]
        ends = np.minimum(shifts + len(group), len(old))
        differences = energy[ends] - energy[np.maximum(shifts, 0)] - 2 * likeness  # squared, but for the group's own
        yield from _shifted(old, group, shift=int(shifts[np.argmin(differences)]))


def _shifted(old: bytes, group: bytes, *, shift: int) -> Iterator[Record]:
    """Yield what compares a group with the old image from `shift` on; what lies outside of it is taken as it is."""
    before = max(-shift, 0)
    if before:
        yield Record(0, 0, before)
    start = max(shift, 0)
    copied = min(len(group) - before, len(old) - start)
    yield from _compared(old[start : start + copied], group[before : before + copied], start=start)
    if len(group) > before + copied:
        yield Record(0, 0, len(group) - before - copied)


def _compared(old: bytes, new: bytes, *, start: int) -> Iterator[Record]:
    """Yield copies, and literals for stretches whose bytes are smaller than their differences."""
    samples, before = (np.frombuffer(image, np.int8) for image in (new, old))
    edges = np.arange(0, len(new), _STRETCH_BYTES)
    is_new = _sums(samples, edges) < _sums(samples - before, edges)
    position = 0
    for is_literal, stretch in groupby(range(len(edges)), key=lambda index: bool(is_new[index])):
        count = min(len(list(stretch)) * _STRETCH_BYTES, len(new) - position)
        yield Record(0, 0, count) if is_literal else Record(start + position, count, 0)
        position += count


def _sums(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    sums: np.ndarray = np.add.reduceat(np.abs(values.astype(np.int16)), edges, dtype=np.int64)
    return sums


def _signal(image: bytes) -> np.ndarray:
    samples: np.ndarray = np.frombuffer(image, np.int8).astype(np.float64)
    samples -= samples.mean()
    return samples


def main() -> None:
    """Read two images, write their patch."""
    os.nice(_NICENESS)
    received = sys.stdin.buffer.read()
    old_length, new_length = LENGTHS.unpack_from(received)
    images = received[LENGTHS.size :]
    if len(images) != old_length + new_length:
        sys.exit(f"images: expected {old_length} and {new_length} bytes, found {len(images)}")
    old, new = images[:old_length], images[old_length:]
    patch = make_patch(old, new)
    if applied(patch, old) != new:
        sys.exit("patch: expected it to make the new image, found another")
    with contextlib.suppress(BrokenPipeError):  # the parent is gone, and will have it made again
        sys.stdout.buffer.write(patch)
        sys.stdout.buffer.flush()


def applied(patch: bytes, old: bytes) -> bytes:
    """Return what a patch makes of an image.

    Raises:
        PatchError: the patch is wrong.
    """

    def read_patch(offset: int, length: int) -> bytes:
        return patch[offset : offset + length]

    def read_old(offset: int, length: int) -> bytes:
        return old[offset : offset + length]

    return b"".join(map(bytes, apply_patch(read_header(read_patch, len(patch)), patch=read_patch, old=read_old)))


if __name__ == "__main__":
    main()
