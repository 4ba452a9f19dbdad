"""From a photo or a signal to a model's input, and from a model's output to scores of labels.

Deterministic: the same photo gives the same bytes on every machine (Pillow resizes in integers).
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from protocol.model import InputContract
from tinyml.errors import InputMismatchError
from tinyml.flatbuffer import Quantisation

_IMAGE_AXES = 4  # batch, height, width, channels
_CHANNELS = 3
_SCALINGS_KEPT = 64  # tables of 1 kB at most, float32; one for each kind of input


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a photo in pixels, as a camera that pans over it sees it."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class LabelScore:
    """What a model gives a label, 0 to 1 where its last operator is a softmax."""

    label: str
    score: float


def photo_tensor(photo: np.ndarray, contract: InputContract, *, window: Window | None = None) -> np.ndarray:
    """Crop, resize and scale a photo to a model's input.

    Args:
        photo: RGB, uint8, shape (height, width, 3).
        contract: the card's input: shape (1, height, width, 3), type, and value = pixel · scale + offset.
        window: the part of the photo to use; all of it if it is not given.

    Returns:
        Input tensor in the contract's shape and type. Integers are rounded and saturate.

    Raises:
        InputMismatchError: no RGB photo, a window outside it, or a contract that is not for an RGB image.
    """
    if len(contract.shape) != _IMAGE_AXES or contract.shape[0] != 1 or contract.shape[3] != _CHANNELS:
        raise InputMismatchError(f"contract: expected an input of shape (1, height, width, 3), found {contract.shape}")
    if photo.dtype != np.uint8 or photo.ndim != _CHANNELS or photo.shape[2] != _CHANNELS:
        raise InputMismatchError(f"photo: expected uint8 (height, width, 3), found {photo.dtype} {photo.shape}")
    seen = window or Window(0, 0, photo.shape[1], photo.shape[0])
    _, height, width, _ = contract.shape
    pixels = Image.fromarray(_crop(photo, seen)).resize((width, height), Image.Resampling.BILINEAR)
    levels = _levels(contract.scale, contract.offset, contract.dtype)
    return np.take(levels, np.asarray(pixels))[np.newaxis]


def signal_tensor(rows: np.ndarray, contract: InputContract) -> np.ndarray:
    """Scale samples, or rows of features, of a signal to a model's input.

    Args:
        rows: float32, as many values as the input has.
        contract: the card's input: shape, type, and value = sample · scale + offset.

    Raises:
        InputMismatchError: more or fewer values.
    """
    if rows.size != math.prod(contract.shape):
        raise InputMismatchError(f"signal: expected {math.prod(contract.shape)} values, found {rows.size}")
    return _scale(rows.reshape(contract.shape), contract.scale, contract.offset, contract.dtype)


def dequantise(output: np.ndarray, quantisation: Quantisation | None) -> np.ndarray:
    """Turn stored integers into the real numbers that they stand for; a float tensor stays as it is."""
    if quantisation is None:
        return output.astype(np.float32)
    return ((output.astype(np.float32) - quantisation.zero_point) * quantisation.scale).astype(np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities along the last axis, for a model that ends without a softmax."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def label_scores(values: np.ndarray, labels: Sequence[str]) -> tuple[LabelScore, ...]:
    """Pair dequantised output values with labels, the highest first.

    Raises:
        InputMismatchError: not one label per value.
    """
    flat = values.ravel()
    if flat.size != len(labels):
        raise InputMismatchError(f"labels: expected {flat.size}, one per output value, found {len(labels)}")
    scores = [LabelScore(label, float(value)) for label, value in zip(labels, flat, strict=True)]
    return tuple(sorted(scores, key=lambda score: score.score, reverse=True))


def _crop(photo: np.ndarray, window: Window) -> np.ndarray:
    height, width, _ = photo.shape
    right, bottom = window.left + window.width, window.top + window.height
    if not (0 <= window.left < right <= width and 0 <= window.top < bottom <= height):
        raise InputMismatchError(f"window: expected a part of {width} × {height} pixels, found {window}")
    return np.ascontiguousarray(photo[window.top : bottom, window.left : right])


@functools.lru_cache(maxsize=_SCALINGS_KEPT)
def _levels(scale: float, offset: float, dtype: str) -> np.ndarray:
    """Return what each of the 256 values of a pixel becomes."""
    return _scale(np.arange(256, dtype=np.uint8), scale, offset, dtype)


def _scale(values: np.ndarray, scale: float, offset: float, dtype: str) -> np.ndarray:
    scaled = values.astype(np.float32) * np.float32(scale) + np.float32(offset)
    wanted = np.dtype(dtype)
    if wanted.kind == "f":
        return scaled.astype(wanted)
    bounds = np.iinfo(wanted)
    return np.asarray(np.clip(np.rint(scaled), bounds.min, bounds.max), wanted)
