"""The part of CBOR (RFC 8949) that evidence may hold, and nothing else of it.

A general decoder turns tags into dates, regular expressions, fractions, shared and cyclic values. Nothing of that has a
place in evidence, so unverified bytes are read by these rules, in time and memory linear in their length:
    1. length: at most `max_bytes`;
    2. form: integers, byte and text strings, arrays, maps, false, true and null; lengths definite and within the bytes
       (§3.2); a tag only as the outermost item, and only the one that is expected; at most `MAX_DEPTH` deep;
    3. text is UTF-8;
    4. preferred serialisation (§4.1): every number and length has its shortest form, the keys of a map are numbers and
       strings and none occurs twice (§5.6), and no byte trails; so one item has one encoding.
"""

from typing import Any

from protocol.errors import MalformedError

MAX_DEPTH = 8  # of arrays and maps within each other
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG = range(7)  # major types (§3.1)
_CONSTANTS = {0xF4: False, 0xF5: True, 0xF6: None}  # by their one byte
_LOW_BITS = 0x1F  # of a first byte: an argument, or how many bytes it has
_ONE_BYTE, _EIGHT_BYTES = 24, 27  # of an argument that follows the first byte (§3)
_LOWEST = {24: 24, 25: 1 << 8, 26: 1 << 16, 27: 1 << 32}  # argument that needs so many bytes
_BYTES_HEADS = 0x40  # first bytes of byte strings begin here
_OTHER_KEYS = "expected numbers and strings as keys, each once, found another or one again"


class CborError(MalformedError):
    """Bytes are not one CBOR item of the form that evidence may have."""


def decode(unverified: bytes, *, max_bytes: int, tag: int | None = None) -> Any:  # noqa: ANN401 - who asks checks the type
    """Decode one item into int, bytes, str, list, dict, bool or None.

    Args:
        unverified: from anybody.
        max_bytes: longest item that is looked at.
        tag: the outermost item must have it, and what it is around is returned; None means that there is none.

    Raises:
        CborError: any rule of the module.
    """
    # Rule 1: length.
    if len(unverified) > max_bytes:
        raise CborError(f"expected at most {max_bytes} bytes, found {len(unverified)}")
    try:
        begin = 0 if tag is None else _skip_tag(unverified, tag)
        item, end = _item(unverified, begin, MAX_DEPTH)
    except IndexError:
        raise CborError("expected another item, found the end") from None
    except UnicodeDecodeError:
        # Rule 3: text.
        raise CborError("expected text in UTF-8, found other bytes") from None
    # Rule 4: nothing trails.
    if end != len(unverified):
        raise CborError(f"expected one item, found {len(unverified) - end} more bytes")
    return item


# Each of these takes all bytes and the offset where it begins, and returns the offset behind what it read. IndexError
# and UnicodeDecodeError are the caller's.


def _skip_tag(octets: bytes, tag: int) -> int:
    argument = octets[0] & _LOW_BITS
    found, end = (argument, 1) if argument < _ONE_BYTE else _argument(octets, 1, argument)
    if octets[0] >> 5 != _TAG or found != tag:
        raise CborError(f"expected tag {tag}, found another item")
    return end


def _item(octets: bytes, begin: int, depth: int) -> tuple[Any, int]:
    """Read an item in which at most `depth` arrays and maps are within each other; the commonest come first."""
    first = octets[begin]
    begin += 1
    major, argument = first >> 5, first & _LOW_BITS
    if argument >= _ONE_BYTE:
        if argument == _ONE_BYTE <= octets[begin]:
            argument = octets[begin]
            begin += 1
        else:
            argument, begin = _argument(octets, begin, argument)
    if _BYTES <= major <= _TEXT:
        end = begin + argument
        if end > len(octets):
            raise _cut(octets, end)
        string = octets[begin:end]
        return string if major == _BYTES else string.decode(), end
    if major == _UNSIGNED:
        return argument, begin
    if major == _NEGATIVE:
        return ~argument, begin
    # Rule 2: form.
    if major > _MAP:
        return _constant(first), begin
    if not depth:
        raise CborError(f"expected a depth of at most {MAX_DEPTH}, found a deeper item")
    return (_array if major == _ARRAY else _map)(octets, begin, depth - 1, argument)


def _argument(octets: bytes, begin: int, size: int) -> tuple[int, int]:
    """Read the number or length behind a first byte whose low bits are `size`."""
    if size > _EIGHT_BYTES:
        raise CborError("expected a definite length, found another")
    end = begin + (1 << (size - _ONE_BYTE))
    if end > len(octets):
        raise _cut(octets, end)
    argument = int.from_bytes(octets[begin:end], "big")
    # Rule 4: shortest form.
    if argument < _LOWEST[size]:
        raise CborError("expected preferred serialisation, found a number in more bytes than it needs")
    return argument, end


def _cut(octets: bytes, end: int) -> CborError:
    return CborError(f"expected lengths within the bytes, found {end - len(octets)} bytes too few")


def _array(octets: bytes, begin: int, depth: int, length: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    for _ in range(length):
        item, begin = _item(octets, begin, depth)
        items.append(item)
    return items, begin


def _map(octets: bytes, begin: int, depth: int, length: int) -> tuple[dict[Any, Any], int]:
    items: dict[Any, Any] = {}
    for _ in range(length):
        first = octets[begin]
        # A number below 24 is its own encoding, as most keys of evidence are.
        key, begin = (first, begin + 1) if first < _ONE_BYTE else _item(octets, begin, depth)
        # Rule 4: keys.
        if first >> 5 > _TEXT:
            raise CborError(_OTHER_KEYS)
        items[key], begin = _item(octets, begin, depth)
    if len(items) != length:
        raise CborError(_OTHER_KEYS)
    return items, begin


def _constant(first: int) -> bool | None:
    if first not in _CONSTANTS:
        raise CborError("expected no tag, float or simple value but false, true and null, found one")
    return _CONSTANTS[first]


def encode_bytes(octets: bytes) -> bytes:
    """Encode a byte string of less than 64 KiB (§3.1, major type 2)."""
    length = len(octets)
    if length < _ONE_BYTE:
        return bytes((_BYTES_HEADS + length,)) + octets
    if length < _LOWEST[25]:
        return bytes((_BYTES_HEADS + 24, length)) + octets
    return bytes((_BYTES_HEADS + 25,)) + length.to_bytes(2, "big") + octets
