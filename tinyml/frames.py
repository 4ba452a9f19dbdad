"""The frames between the pool and a worker.

    0  4  u32 header length n, little-endian
    4  n  header, JSON object
    …     payload, to the end: a model, an input or an output tensor in C order

Not pickle: a worker runs models that nobody vouches for, and unpickling what a hostile one made it say would run
code in the process that holds the keys.
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

from tinyml.errors import TinymlError

_HEADER_LENGTH = struct.Struct("<I")


class FrameError(TinymlError):
    """The bytes are no frame."""


def encode_frame(header: Mapping[str, object], payload: bytes = b"") -> bytes:
    """Lay a header and a payload out as one frame."""
    text = json.dumps(header).encode()
    return _HEADER_LENGTH.pack(len(text)) + text + payload


def decode_frame(frame: bytes) -> tuple[dict[str, Any], bytes]:
    """Take a frame apart.

    Raises:
        FrameError: truncated, or the header is no JSON object.
    """
    if len(frame) < _HEADER_LENGTH.size:
        raise FrameError(f"frame: expected at least {_HEADER_LENGTH.size} bytes, found {len(frame)}")
    end = _HEADER_LENGTH.size + _HEADER_LENGTH.unpack_from(frame)[0]
    try:
        header = json.loads(frame[_HEADER_LENGTH.size : end])
    except ValueError as error:
        raise FrameError("frame: expected a JSON header, found none") from error
    if not isinstance(header, dict):
        raise FrameError(f"frame: expected a JSON object, found {type(header).__name__}")
    return header, frame[end:]
