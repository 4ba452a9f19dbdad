"""The part of CBOR (RFC 8949) that evidence may hold, checked before any of it is decoded.

A general decoder turns tags into dates, regular expressions, fractions, shared and cyclic values. Nothing of that has a
place in evidence, so unverified bytes go through these steps, in time and memory linear in their length:
    1. length: at most `max_bytes`;
    2. form: integers, byte and text strings, arrays, maps, false, true and null; lengths definite and within the bytes
       (§3.2); a tag only as the outermost item, and only the one that is expected; at most `MAX_DEPTH` deep;
    3. decoding, by cbor2: text is UTF-8;
    4. preferred serialisation (§4.1): encoding again gives the same bytes, so that every number has its shortest form,
       no key occurs twice (§5.6) and no byte trails.
"""

from typing import Any

import cbor2

from protocol.errors import MalformedError

MAX_DEPTH = 8  # of arrays and maps within each other
_BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(2, 8)  # major types (§3.1)
_CONSTANTS = range(20, 23)  # false, true, null
_ONE_BYTE, _EIGHT_BYTES = 24, 27  # of an argument that follows the first byte (§3)


class CborError(MalformedError):
    """Bytes are not one CBOR item of the form that evidence may have."""


def decode(unverified: bytes, *, max_bytes: int, tag: int | None = None) -> Any:  # noqa: ANN401 - who asks checks the type
    """Decode one item into int, bytes, str, list, dict, bool, None, or the expected tag around one.

    Args:
        unverified: from anybody.
        max_bytes: longest item that is looked at.
        tag: the outermost item must have it; None means that there is none.

    Raises:
        CborError: any step of the module.
    """
    # Step 1: length.
    if len(unverified) > max_bytes:
        raise CborError(f"expected at most {max_bytes} bytes, found {len(unverified)}")
    # Step 2: form.
    start = 0 if tag is None else _skip_tag(unverified, tag)
    _check_form(unverified, start)
    # Step 3: decoding.
    try:
        item = cbor2.loads(unverified)
    except cbor2.CBORError as error:
        raise CborError("expected text in UTF-8, found other bytes") from error
    # Step 4: preferred serialisation.
    if cbor2.dumps(item) != unverified:
        raise CborError("expected one item in preferred serialisation, found another encoding")
    return item


def _skip_tag(unverified: bytes, tag: int) -> int:
    major, found, offset = _head(unverified, 0)
    if major != _TAG or found != tag:
        raise CborError(f"expected tag {tag}, found another item")
    return offset


def _check_form(unverified: bytes, offset: int) -> None:
    """Walk through one item; `outer` has the items still to come of every array and map around the next one."""
    outer: list[int] = []
    to_come = 1
    while to_come or outer:
        if not to_come:
            to_come = outer.pop()
            continue
        to_come -= 1
        major, argument, offset = _head(unverified, offset)
        if major < _BYTES:
            continue
        if major <= _TEXT:
            offset += argument
        elif major <= _MAP:
            outer.append(to_come)
            to_come = argument if major == _ARRAY else 2 * argument
        elif major == _TAG or argument not in _CONSTANTS:
            raise CborError("expected no tag, float or simple value but false, true and null, found one")
        if offset > len(unverified) or len(outer) > MAX_DEPTH:
            raise CborError(f"expected lengths within the bytes and a depth of at most {MAX_DEPTH}, found more")


def _head(unverified: bytes, offset: int) -> tuple[int, int, int]:
    """Return the major type, its argument, and where its content begins."""
    try:
        first = unverified[offset]
        major, argument = first >> 5, first & 31
        if argument < _ONE_BYTE:
            return major, argument, offset + 1
        if argument == _ONE_BYTE and major != _SIMPLE:
            return major, unverified[offset + 1], offset + 2
    except IndexError:
        raise CborError("expected another item, found the end") from None
    if argument > _EIGHT_BYTES or major == _SIMPLE:
        raise CborError("expected a definite length and no float, found another")
    end = offset + 1 + (1 << (argument - _ONE_BYTE))
    if end > len(unverified):
        raise CborError("expected another item, found the end")
    return major, int.from_bytes(unverified[offset + 1 : end], "big"), end
