"""Patches: from a service that may be anybody, applied to an old image that is known."""

from protocol.delta import apply_patch, read_header, write_patch
from protocol.errors import ProtocolError
from protocol.geometry import KIB
from tests.fuzz.target import Target

_OLD = bytes(index * index % 251 for index in range(6 * KIB))
_NEW = bytes((byte + 1) % 256 for byte in _OLD[: 5 * KIB]) + b"the end is new"


def _patch(unverified: bytes) -> None:
    def read(offset: int, length: int) -> bytes:
        return unverified[offset : offset + length]

    header = read_header(read, len(unverified))
    if header.old_length != len(_OLD):
        return
    made = sum(map(len, apply_patch(header, patch=read, old=_old)))
    if made != header.new_length:
        raise AssertionError(f"expected {header.new_length} bytes, found {made}")


def _old(offset: int, length: int) -> bytes:
    if not 0 <= offset <= offset + length <= len(_OLD):
        raise AssertionError(f"expected to read within {len(_OLD)} bytes, found {length} at {offset}")
    return _OLD[offset : offset + length]


TARGETS = (Target("delta", _patch, (ProtocolError,), (write_patch(_OLD, _NEW, group_bytes=4 * KIB),)),)
