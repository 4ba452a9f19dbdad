"""Signals from files in place of the synthesised ones: WAV, CSV, and folders of photos.

Everything is read, checked and bounded before a device starts; a file that is not of the expected form is refused with
its name and what was found. A signal of another rate than a model takes is resampled, as a whole and band-limited.
"""

import csv
import functools
import wave
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from device_sim.errors import DeviceSimError
from protocol.sensing import SensorKind, SensorSource
from tinyml.photos import Photo

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_PHOTOS = 10_000
MAX_PIXELS = 64_000_000
PHOTO_SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
AXES = 3
_INTEGERS = {1: "u1", 2: "<i2", 4: "<i4"}  # by bytes
_RATES_KEPT = 16  # recordings that fleets share
_PACKED_BYTES = 3  # 24-bit samples


class ReplayError(DeviceSimError):
    """A file to replay is missing, too large, or not of the expected form."""


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A recorded signal.

    Attributes:
        name: of its file.
        sample_rate_hz: of it.
        samples: float32, shape (samples, channels).
        loops: whether it begins again at its end.
    """

    name: str
    sample_rate_hz: int
    samples: np.ndarray = field(repr=False)
    loops: bool = True

    def part(self, start: int, count: int) -> np.ndarray:
        """Return samples from a place on; beyond the end it begins again, or there is silence."""
        places = np.arange(start, start + count)
        found = self.samples[places % len(self.samples)]
        return found if self.loops else np.where((places < len(self.samples))[:, None], found, np.float32(0))


@functools.lru_cache(maxsize=_RATES_KEPT)
def at_rate(recording: Recording, sample_rate_hz: int) -> Recording:
    """Return a recording at another rate: what its spectrum has room for."""
    if sample_rate_hz == recording.sample_rate_hz:
        return recording
    before = len(recording.samples)
    length = max(1, round(before * sample_rate_hz / recording.sample_rate_hz))
    spectrum = np.fft.rfft(recording.samples, axis=0)[: length // 2 + 1]
    resampled = np.fft.irfft(spectrum, length, axis=0) * (length / before)
    return Recording(recording.name, sample_rate_hz, resampled.astype(np.float32), recording.loops)


def read_photos(source: SensorSource, folder: Path) -> tuple[Photo, ...]:
    """Read a folder of PNG and JPEG photos, in the order of their names.

    Args:
        source: of a camera.
        folder: that its path is relative to.

    Raises:
        ReplayError: no folder, no photo in it, or one that is damaged or too large.
    """
    place = folder / source.replay
    if not place.is_dir():
        raise ReplayError(f"{place}: expected a folder of photos, found none")
    files = sorted(file for file in place.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES)
    if not 0 < len(files) <= MAX_PHOTOS:
        raise ReplayError(f"{place}: expected 1 to {MAX_PHOTOS} PNG or JPEG photos, found {len(files)}")
    return tuple(_read_photo(file) for file in files)


def read_recording(source: SensorSource, folder: Path) -> Recording:
    """Read a WAV or CSV file.

    Args:
        source: of a microphone or an accelerometer.
        folder: that its path is relative to.

    Raises:
        ReplayError: no such file, too large, or not of the expected form.
    """
    path = folder / source.replay
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        raise ReplayError(f"{path}: expected a file of at most {MAX_FILE_BYTES} bytes, found none")
    readers = {".wav": _read_wav, ".csv": _read_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ReplayError(f"{path}: expected a .wav or .csv file, found {path.suffix or 'no suffix'}")
    rate, samples = reader(path, source)
    if not len(samples):
        raise ReplayError(f"{path}: expected samples, found none")
    return Recording(path.name, rate, _channels(path, samples, source.sensor), source.loops)


def _read_photo(path: Path) -> Photo:
    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ReplayError(f"{path}: expected at most {MAX_PIXELS} pixels, found {image.size}")
            pixels = np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ReplayError(f"{path}: expected a photo, found {error}") from error
    pixels.flags.writeable = False
    return Photo(path.stem, pixels, shows_person=False, expected="")


def _read_wav(path: Path, source: SensorSource) -> tuple[int, np.ndarray]:
    del source  # the file says its rate
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            content = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        found = str(error) or "its end too early"
        raise ReplayError(f"{path}: expected PCM in a WAV file, found: {found}") from error
    whole = len(content) // (width * channels) * width * channels
    return rate, _pcm(path, content[:whole], width).reshape(-1, channels)


def _pcm(path: Path, content: bytes, width: int) -> np.ndarray:
    """Return float32 with full scale ±1."""
    if width == _PACKED_BYTES:
        packed = np.frombuffer(content, np.uint8).reshape(-1, _PACKED_BYTES)
        padded = np.concatenate([np.zeros((len(packed), 1), np.uint8), packed], axis=1)
        return np.asarray(padded.copy().view("<i4").ravel() / 2**31, np.float32)
    if width not in _INTEGERS:
        raise ReplayError(f"{path}: expected samples of 1 to 4 bytes, found {width}")
    values = np.frombuffer(content, np.dtype(_INTEGERS[width]))
    scaled = values / 2 ** (8 * width - 1)
    return np.asarray(scaled - 1 if width == 1 else scaled, np.float32)  # single bytes are unsigned


def _read_csv(path: Path, source: SensorSource) -> tuple[int, np.ndarray]:
    """Read columns of numbers; a first line that holds none is a header."""
    if source.sample_rate_hz is None:
        raise ReplayError(f"{path}: expected sample_rate_hz of a CSV file, found none")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ReplayError(f"{path}: expected CSV, found {error}") from error
    first = 0 if lines and _is_row(lines[0]) else 1
    numbers = [_numbers(path, number, line) for number, line in enumerate(lines[first:], start=first + 1)]
    if len({len(row) for row in numbers}) > 1:
        raise ReplayError(f"{path}: expected as many columns in every line, found several counts")
    return source.sample_rate_hz, np.array(numbers, np.float32)


def _is_row(line: Sequence[str]) -> bool:
    try:
        return bool([float(value) for value in line])
    except ValueError:
        return False


def _numbers(path: Path, number: int, line: Sequence[str]) -> list[float]:
    try:
        values = [float(value) for value in line]
    except ValueError as error:
        raise ReplayError(f"{path}, line {number}: expected numbers, found {','.join(line)[:40]!r}") from error
    if not np.isfinite(values).all():
        raise ReplayError(f"{path}, line {number}: expected finite numbers, found {','.join(line)[:40]!r}")
    return values


def _channels(path: Path, samples: np.ndarray, sensor: SensorKind) -> np.ndarray:
    """Return one channel of sound, or three axes."""
    count = samples.shape[1]
    if sensor is SensorKind.MICROPHONE:
        return np.asarray(samples.mean(axis=1, keepdims=True))
    if count not in (1, AXES):
        raise ReplayError(f"{path}: expected 1 or {AXES} axes, found {count} columns")
    return samples if count == AXES else np.repeat(samples, AXES, axis=1)
