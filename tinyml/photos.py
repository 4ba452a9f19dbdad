"""The demo's photos: real ones, out of the wheel of scikit-image, chosen on purpose.

Only files inside the wheel are used; nothing is downloaded. Chosen so that both models see what they know and what
they do not: the image model has ten classes and is confidently wrong off them, the person model has false alarms.
"""

import functools
import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tinyml.errors import PhotoMissingError


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo.

    Attributes:
        name: its name in the demo.
        pixels: RGB, uint8, shape (height, width, 3), read-only.
        shows_person: whether a person is in it.
        expected: what the models are expected to see over the full frame.
    """

    name: str
    pixels: np.ndarray = field(repr=False)
    shows_person: bool
    expected: str


@dataclass(frozen=True, slots=True)
class _Source:
    file: str
    expected: str
    shows_person: bool = False


_SOURCES = {
    "astronaut": _Source(
        "astronaut.png", "person 0.94; no class of the image model fits, it says dog", shows_person=True
    ),
    "camera-man": _Source(
        "camera.png", "person 0.80; no class of the image model fits, it says bird", shows_person=True
    ),
    "cat": _Source("chelsea.png", "person 0.08; cat 0.70"),
    "horse": _Source("horse.png", "a silhouette: person 0.31, above 0.8 in square crops (a false alarm); horse 0.99"),
    "rocket": _Source("rocket.jpg", "person 0.13; no class fits, it says ship 0.81"),
    "coffee": _Source("coffee.png", "person 0.01; no class fits, it says automobile 0.99"),
    "motorcycle": _Source("motorcycle_left.png", "person 0.31; automobile 0.95, the nearest class"),
}

PHOTO_NAMES = tuple(_SOURCES)


@functools.cache
def load_photo(name: str) -> Photo:
    """Read a photo of the demo.

    Args:
        name: one of `PHOTO_NAMES`.

    Raises:
        PhotoMissingError: unknown name, or the installed scikit-image lacks the file.
    """
    source = _SOURCES.get(name)
    if source is None:
        raise PhotoMissingError(f"photo: expected one of {', '.join(PHOTO_NAMES)}, found {name}")
    try:
        with Image.open(_data_folder() / source.file) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise PhotoMissingError(f"photo {name}: expected {source.file} in scikit-image, found none") from error
    pixels.flags.writeable = False
    return Photo(name, pixels, source.shows_person, source.expected)


def load_photos() -> tuple[Photo, ...]:
    """Read all photos of the demo, in a fixed order."""
    return tuple(load_photo(name) for name in PHOTO_NAMES)


def _data_folder() -> Path:
    # Found, not imported: importing skimage.data brings a downloader and half a second.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise PhotoMissingError("photos: expected the package scikit-image, found none")
    return Path(spec.origin).parent / "data"
