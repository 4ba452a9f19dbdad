"""A camera that pans over real photos (`tinyml.photos`), as one on a wall that looks at prints.

Deterministic: the device id decides where it starts and how it moves, so the same device sees the same frames in
every run. It looks at one photo for some frames, through a square window that glides and zooms, then at the next.
It sees no finer than its sensor does (`as_resolved`): docs/adr/0033-cameras-resolve-240-lines.md.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from protocol.identity import DeviceId
from tinyml.photos import Photo
from tinyml.preprocess import Window

FRAMES_PER_PHOTO = 5
SENSOR_LINES = 240  # QVGA, as the cameras of microcontrollers have
SMALLEST_WINDOW = 0.8  # share of the photo's shorter side; below it the models lose sight of their object


_Way = tuple[tuple[float, float], ...]
"""Zoom and place of the window at the beginning and at the end of a visit, 0 to 1 each."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the camera sees.

    Attributes:
        sequence: rises by one per frame since the camera was switched on.
        photo: name of the photo.
        window: the part of it in sight, pixels.
        pixels: RGB, uint8, shape (height, width, 3).
    """

    sequence: int
    photo: str
    window: Window
    pixels: np.ndarray = field(repr=False)


def as_resolved(photo: Photo) -> Photo:
    """Return a photo as the sensor resolves it: each pixel is the mean of the area that it covers.

    Its shorter side has `SENSOR_LINES` pixels afterwards; a photo that has no more stays as it is.
    """
    height, width, _ = photo.pixels.shape
    share = SENSOR_LINES / min(height, width)
    if share >= 1:
        return photo
    size = (round(width * share), round(height * share))
    pixels = np.array(Image.fromarray(photo.pixels).resize(size, Image.Resampling.BOX))
    pixels.flags.writeable = False
    return replace(photo, pixels=pixels)


class Camera:
    """The camera of one device.

    Args:
        device_id: decides what it sees.
        photos: what hangs on the wall, at least one.
        seed: of the scenario.
    """

    def __init__(self, device_id: DeviceId, photos: Sequence[Photo], *, seed: int = 1) -> None:
        self._salt = f"{seed}\0{device_id}"
        order = self._random("order")
        self._photos = order.sample(list(photos), len(photos))
        self._sequence = 0
        self._way: tuple[int, _Way] = (-1, ())  # of the visit that it is on

    def take(self) -> Frame:
        """Return the next frame."""
        sequence, self._sequence = self._sequence, self._sequence + 1
        visit, step = divmod(sequence, FRAMES_PER_PHOTO)
        photo = self._photos[visit % len(self._photos)]
        window = self._window(photo, visit, step / FRAMES_PER_PHOTO)
        rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
        return Frame(sequence, photo.name, window, photo.pixels[rows, columns])

    def _window(self, photo: Photo, visit: int, progress: float) -> Window:
        """Return the window at a point of the way from one place and zoom to another."""
        height, width, _ = photo.pixels.shape
        scale, x, y = (_between(start, end, progress) for start, end in self._way_of(visit))
        side = int(min(height, width) * (SMALLEST_WINDOW + (1 - SMALLEST_WINDOW) * scale))
        return Window(int((width - side) * x), int((height - side) * y), side, side)

    def _way_of(self, visit: int) -> _Way:
        if self._way[0] != visit:
            chance = self._random(f"visit {visit}")
            self._way = (visit, tuple((chance.random(), chance.random()) for _ in range(3)))
        return self._way[1]

    def _random(self, purpose: str) -> random.Random:
        digest = hashlib.sha256(f"{self._salt}\0{purpose}".encode()).digest()
        return random.Random(digest)  # noqa: S311 - a seeded simulation, no key


def _between(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress
