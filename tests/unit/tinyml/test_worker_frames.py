"""The frames between the pool and a worker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyml.frames import FrameError, decode_frame, encode_frame


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.binary())
def test_frame_round_trips(header: dict[str, int | str], payload: bytes) -> None:
    """What goes in comes out."""
    assert decode_frame(encode_frame(header, payload)) == (header, payload)


@given(st.binary(max_size=64))
def test_arbitrary_bytes_give_a_frame_or_our_error(frame: bytes) -> None:
    """Nothing that a worker says raises anything else in the parent."""
    try:
        header, _ = decode_frame(frame)
    except FrameError:
        return
    assert isinstance(header, dict)


@pytest.mark.parametrize(
    ("frame", "message"),
    [(b"", "at least 4 bytes"), (b"\x02\0\0\0xx", "JSON header"), (b"\x02\0\0\0[]", "JSON object, found list")],
)
def test_malformed_frame_is_refused(frame: bytes, message: str) -> None:
    """The message says what was expected."""
    with pytest.raises(FrameError, match=message):
        decode_frame(frame)
