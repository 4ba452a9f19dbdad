"""The CBOR that evidence may hold: everything else is refused."""

import re
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.cbor import MAX_DEPTH, CborError, decode, encode_bytes

LONGEST = 4096


def nested(depth: int, core: bytes = b"\x00") -> bytes:
    return b"\x81" * depth + core


@pytest.mark.parametrize(
    "item",
    [
        0,
        23,
        24,
        255,
        256,
        65536,
        1 << 32,
        -1,
        -(1 << 64),
        b"",
        b"x" * 300,
        "ä",
        [],
        {},
        True,
        False,
        None,
        [1, {2: [3]}],
    ],
)
def test_plain_items_come_back(item: object) -> None:
    """Numbers of every width, strings, arrays, maps and the three constants."""
    assert decode(cbor2.dumps(item), max_bytes=LONGEST) == item


def test_expected_tag_is_the_outermost_item() -> None:
    """Exactly the tag that was asked for, and only there."""
    tagged = cbor2.dumps(cbor2.CBORTag(18, [1]))
    assert decode(tagged, max_bytes=LONGEST, tag=18) == [1]
    for unverified, tag in ((tagged, None), (tagged, 17), (b"\x81" + tagged, None), (b"\xd2" + tagged, 18)):
        with pytest.raises(CborError, match="tag"):
            decode(unverified, max_bytes=LONGEST, tag=tag)


def test_deepest_item_is_taken_and_a_deeper_one_refused() -> None:
    """A bomb of nested arrays or maps is no deeper work than the limit."""
    assert decode(nested(MAX_DEPTH), max_bytes=LONGEST)
    bombs = (nested(MAX_DEPTH + 1), nested(LONGEST - 1), b"\xa1\x00" * (LONGEST // 2), b"\x81" * LONGEST)
    for bomb in bombs:
        with pytest.raises(CborError, match=f"depth of at most {MAX_DEPTH}"):
            decode(bomb, max_bytes=LONGEST)


@pytest.mark.parametrize(
    ("unverified", "reason"),
    [
        (bytes(LONGEST + 1), "expected at most 4096 bytes, found 4097"),
        (b"", "expected another item, found the end"),
        (b"\x18", "expected another item, found the end"),
        (b"\x19\x01", "expected lengths within the bytes"),
        (b"\x82\x01", "expected another item, found the end"),
        (b"\x41", "expected lengths within the bytes"),
        (b"\x5b" + b"\xff" * 8, "expected lengths within the bytes"),
        (b"\x7a\x7f\xff\xff\xff", "expected lengths within the bytes"),
        (b"\x9b" + b"\xff" * 8, "expected another item, found the end"),
        (b"\xbb\x7f" + b"\xff" * 7, "expected another item, found the end"),
        (b"\x18\x05", "preferred serialisation"),
        (b"\x1b" + bytes(7) + b"\x05", "preferred serialisation"),
        (b"\x58\x01x", "preferred serialisation"),
        (b"\x98\x01\x00", "preferred serialisation"),
        (b"\x19\x00\xff", "preferred serialisation"),
        (b"\x1a\x00\x00\xff\xff", "preferred serialisation"),
        (b"\x1b\x00\x00\x00\x00\xff\xff\xff\xff", "preferred serialisation"),
        (b"\xa2\x01\x02\x01\x03", "each once"),
        (b"\xa1\xf5\x00", "numbers and strings as keys"),
        (b"\xa1\x80\x00", "numbers and strings as keys"),
        (b"\xa1\xa0\x00", "numbers and strings as keys"),
        (b"\x00\x00", "one item, found 1 more bytes"),
        (b"\x5f\x41x\xff", "definite length"),
        (b"\x7f\x61x\xff", "definite length"),
        (b"\x9f\xff", "definite length"),
        (b"\xbf\xff", "definite length"),
        (b"\x1c", "definite length"),
        (b"\xf9\x7e\x00", "no tag, float or simple value"),
        (b"\xfa\x7f\xc0\x00\x00", "no tag, float or simple value"),
        (b"\xfb\x3f\xf0" + bytes(6), "no tag, float or simple value"),
        (b"\xf8\xff", "no tag, float or simple value"),
        (b"\xf7", "no tag, float or simple value"),
        (b"\xe0", "no tag, float or simple value"),
        (b"\xff", "definite length"),
        (b"\x61\xff", "expected text in UTF-8"),
        (b"\xc2\x41\x01", "no tag"),
        (b"\xc1\x1a\x00\x00\x00\x00", "no tag"),
        (b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01", "no tag"),
        (b"\xd8\x1c\x81\xd8\x1d\x00", "no tag"),
        (b"\xd8\x23\x61(", "no tag"),
        (b"\xd9\x01\x00\x82\x44aaaa\xd8\x19\x00", "no tag"),
    ],
)
def test_other_items_are_refused(unverified: bytes, reason: str) -> None:
    """Cut, padded, indefinite, doubled, trailing, and what a general decoder makes objects of."""
    with pytest.raises(CborError, match=re.escape(reason)):
        decode(unverified, max_bytes=LONGEST)


PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 64), (1 << 64) - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.integers(0, 99) | st.text(max_size=3), inner),
    max_leaves=12,
)


@given(PLAIN)
def test_every_plain_item_comes_back_or_is_too_deep(item: object) -> None:
    """What the encoder writes in this subset, the decoder takes."""
    try:
        assert decode(cbor2.dumps(item), max_bytes=1 << 20) == item
    except CborError as error:
        assert "depth" in str(error)  # noqa: PT017 - only too deep an item may be refused


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_come_back_as_they_were(unverified: bytes) -> None:
    """No other error, and one item has one encoding."""
    try:
        item = decode(unverified, max_bytes=LONGEST)
    except CborError:
        return
    assert cbor2.dumps(item) == unverified


@pytest.mark.parametrize("length", [0, 1, 23, 24, 255, 256, 4096, 65535])
def test_byte_string_is_encoded_in_its_shortest_form(length: int) -> None:
    """As cbor2 does."""
    octets = bytes(length)
    assert encode_bytes(octets) == cbor2.dumps(octets)
