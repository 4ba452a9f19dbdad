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
    reader = _Reader(unverified)
    try:
        if tag is not None:
            reader.skip_tag(tag)
        item = reader.item(MAX_DEPTH)
    except IndexError:
        raise CborError("expected another item, found the end") from None
    except UnicodeDecodeError:
        # Rule 3: text.
        raise CborError("expected text in UTF-8, found other bytes") from None
    # Rule 4: nothing trails.
    if reader.left:
        raise CborError(f"expected one item, found {reader.left} more bytes")
    return item


class _Reader:
    """Reads item after item; IndexError and UnicodeDecodeError are the caller's."""

    __slots__ = ("_octets", "_offset")

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._offset = 0

    @property
    def left(self) -> int:
        """Bytes behind what has been read."""
        return len(self._octets) - self._offset

    def skip_tag(self, tag: int) -> None:
        first = self._octets[0]
        self._offset = 1
        argument = first & _LOW_BITS
        found = argument if argument < _ONE_BYTE else self._argument(argument)
        if first >> 5 != _TAG or found != tag:
            raise CborError(f"expected tag {tag}, found another item")

    def item(self, depth: int) -> Any:  # noqa: ANN401 - see `decode`
        """Read an item in which at most `depth` arrays and maps are within each other."""
        first = self._octets[self._offset]
        self._offset += 1
        major, argument = first >> 5, first & _LOW_BITS
        if argument >= _ONE_BYTE:
            argument = self._argument(argument)
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return ~argument
        if major <= _TEXT:
            # Here and not in a method of its own: most of evidence is strings.
            begin, end = self._offset, self._offset + argument
            self._offset = end
            octets = self._octets[begin:end]
            if len(octets) != argument:
                raise self._cut()
            return octets if major == _BYTES else octets.decode()
        # Rule 2: form.
        if major > _MAP:
            return _constant(first)
        if not depth:
            raise CborError(f"expected a depth of at most {MAX_DEPTH}, found a deeper item")
        return self._array(argument, depth - 1) if major == _ARRAY else self._map(argument, depth - 1)

    def _argument(self, size: int) -> int:
        """Read the number or length behind a first byte whose low bits are `size`."""
        if size > _EIGHT_BYTES:
            raise CborError("expected a definite length, found another")
        begin, end = self._offset, self._offset + (1 << (size - _ONE_BYTE))
        self._offset = end
        if end > len(self._octets):
            raise self._cut()
        argument = int.from_bytes(self._octets[begin:end], "big")
        # Rule 4: shortest form.
        if argument < _LOWEST[size]:
            raise CborError("expected preferred serialisation, found a number in more bytes than it needs")
        return argument

    def _cut(self) -> CborError:
        return CborError(f"expected lengths within the bytes, found {-self.left} bytes too few")

    def _array(self, length: int, depth: int) -> list[Any]:
        return [self.item(depth) for _ in range(length)]

    def _map(self, length: int, depth: int) -> dict[Any, Any]:
        items = dict[Any, Any]()
        for _ in range(length):
            key = self._key(depth)
            # Rule 4: keys.
            if key in items:
                raise CborError(_OTHER_KEYS)
            items[key] = self.item(depth)
        return items

    def _key(self, depth: int) -> int | bytes | str:
        first = self._octets[self._offset]
        if first < _ONE_BYTE:  # a number that is its own encoding, as most keys of evidence are
            self._offset += 1
            return first
        key: int | bytes | str = self.item(depth)
        # Rule 4: keys.
        if first >> 5 > _TEXT:
            raise CborError(_OTHER_KEYS)
        return key


def _constant(first: int) -> bool | None:
    if first not in _CONSTANTS:
        raise CborError("expected no tag, float or simple value but false, true and null, found one")
    return _CONSTANTS[first]
