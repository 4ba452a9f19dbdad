"""Signals from files: what they become, and what is said of files that are not what they should be."""

import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from device_sim.sensors.fitted import FittedSensors, read_sources
from device_sim.sensors.replay import Recording, ReplayError, at_rate, read_photos, read_recording
from protocol.geometry import Core
from protocol.identity import DeviceId
from protocol.model import InputContract
from protocol.sensing import SensorKind, SensorSource, SignalContract
from tinyml.photos import load_photos

DEVICE = DeviceId("1" * 128)
RATE = 8000


def source(sensor: SensorKind, replay: str, **more: object) -> SensorSource:
    return SensorSource.model_validate({"sensor": sensor, "replay": replay, **more})


def microphone(replay: str, **more: object) -> SensorSource:
    return source(SensorKind.MICROPHONE, replay, **more)


def accelerometer(replay: str, **more: object) -> SensorSource:
    return source(SensorKind.ACCELEROMETER, replay, **more)


def write_wav(path: Path, frames: bytes, *, width: int = 2, channels: int = 1) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(RATE)
        file.writeframes(frames)


@pytest.mark.parametrize(
    ("width", "frames"),
    [
        (1, struct.pack("4B", 128, 192, 64, 0)),
        (2, struct.pack("<4h", 0, 16384, -16384, -32768)),
        (3, b"\0\0\0\0\0\x40\0\0\xc0\0\0\x80"),
        (4, struct.pack("<4i", 0, 1 << 30, -(1 << 30), -(1 << 31))),
    ],
)
def test_samples_of_every_width_have_full_scale_one(tmp_path: Path, width: int, frames: bytes) -> None:
    """PCM of 8, 16, 24 and 32 bits."""
    write_wav(tmp_path / "a.wav", frames, width=width)
    recording = read_recording(microphone("a.wav"), tmp_path)
    assert recording.sample_rate_hz == RATE
    assert recording.samples[:, 0].tolist() == [0.0, 0.5, -0.5, -1.0]


def test_stereo_becomes_one_channel_of_sound_and_three_axes_stay(tmp_path: Path) -> None:
    """A microphone hears the mean; an accelerometer has one axis three times, or three."""
    write_wav(tmp_path / "a.wav", struct.pack("<4h", 16384, 0, 0, 0), channels=2)
    assert read_recording(microphone("a.wav"), tmp_path).samples.tolist() == [[0.25], [0.0]]
    (tmp_path / "one.csv").write_text("1\n2\n")
    (tmp_path / "three.csv").write_text("x,y,z\n1,2,3\n\n4,5,6\n")
    one = read_recording(accelerometer("one.csv", sample_rate_hz=10), tmp_path)
    three = read_recording(accelerometer("three.csv", sample_rate_hz=10), tmp_path)
    assert one.samples.tolist() == [[1, 1, 1], [2, 2, 2]]
    assert three.samples.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_recording_begins_again_or_falls_silent() -> None:
    """By its source's word."""
    samples = np.array([[1.0], [2.0], [3.0]], np.float32)
    assert Recording("a", RATE, samples).part(2, 4)[:, 0].tolist() == [3, 1, 2, 3]
    assert Recording("a", RATE, samples, loops=False).part(2, 4)[:, 0].tolist() == [3, 0, 0, 0]


@pytest.mark.parametrize("rate", [4000, 8000, 16000])
def test_recording_of_another_rate_keeps_its_tone(rate: int) -> None:
    """1 kHz stays 1 kHz, as loud as before."""
    tone = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)[:, None]
    heard = at_rate(Recording("tone", RATE, tone), rate).samples[:, 0]
    spectrum = np.abs(np.fft.rfft(heard)) / len(heard) * 2
    assert len(heard) == rate
    assert spectrum.argmax() == 1000
    assert spectrum.max() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.wav", b"", "expected PCM in a WAV file, found: its end too early"),
        ("a.wav", b"RIFF\x04\0\0\0WAVE", "expected PCM in a WAV file"),
        ("a.mp3", b"ID3", r"expected a \.wav or \.csv file, found \.mp3"),
        ("a", b"1,2,3", r"expected a \.wav or \.csv file, found no suffix"),
        ("a.csv", b"", "expected samples, found none"),
        ("a.csv", b"x,y,z\n", "expected samples, found none"),
        ("a.csv", b"1,2,3\n4,five,6\n", "line 2: expected numbers, found '4,five,6'"),
        ("a.csv", b"1,2,3\n4,nan,6\n", "line 2: expected finite numbers"),
        ("a.csv", b"1,2,3\n4,5\n", "expected as many columns in every line"),
        ("a.csv", b"1,2\n4,5\n", "expected 1 or 3 axes, found 2 columns"),
        ("a.csv", b"\xff\xfe1", "expected CSV"),
    ],
)
def test_file_that_is_no_recording_is_refused(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    """The message names the file, and the line where there is one."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ReplayError, match=text):
        read_recording(accelerometer(name, sample_rate_hz=100), tmp_path)


def test_recording_that_is_missing_or_says_no_rate_is_refused(tmp_path: Path) -> None:
    """A CSV file does not say how fast it was sampled."""
    with pytest.raises(ReplayError, match=r"none\.wav: expected a file"):
        read_recording(microphone("none.wav"), tmp_path)
    (tmp_path / "a.csv").write_text("1\n")
    with pytest.raises(ReplayError, match="expected sample_rate_hz of a CSV file, found none"):
        read_recording(accelerometer("a.csv"), tmp_path)


def test_cameras_look_at_the_photos_of_a_folder(tmp_path: Path) -> None:
    """In the order of their names; other files are left alone."""
    for name in ("b.png", "a.JPG"):
        Image.new("RGB", (40, 30), (9, 9, 9)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no photo")
    photos = read_photos(source(SensorKind.CAMERA, "."), tmp_path)
    assert [(photo.name, photo.pixels.shape) for photo in photos] == [("a", (30, 40, 3)), ("b", (30, 40, 3))]


def test_folder_without_a_good_photo_is_refused(tmp_path: Path) -> None:
    """Missing, empty, damaged."""
    with pytest.raises(ReplayError, match="nowhere: expected a folder of photos, found none"):
        read_photos(source(SensorKind.CAMERA, "nowhere"), tmp_path)
    with pytest.raises(ReplayError, match="expected 1 to 10000 PNG or JPEG photos, found 0"):
        read_photos(source(SensorKind.CAMERA, "."), tmp_path)
    (tmp_path / "a.png").write_bytes(b"no photo")
    with pytest.raises(ReplayError, match=r"a\.png: expected a photo"):
        read_photos(source(SensorKind.CAMERA, "."), tmp_path)


def test_fleet_senses_what_its_sources_say(tmp_path: Path) -> None:
    """A recording is played from its start, window by window; what has no source is synthesised or the demo's."""
    (tmp_path / "a.csv").write_text("".join(f"{number}\n" for number in range(6)))
    surfaces = read_sources([accelerometer("a.csv", sample_rate_hz=10)], tmp_path, photos=load_photos())
    sensors = FittedSensors(DEVICE, surfaces)
    contract = InputContract(
        shape=(1, 4, 3),
        dtype="float32",
        sensor=SensorKind.ACCELEROMETER,
        signal=SignalContract(sample_rate_hz=10, window_samples=4),
    )
    windows = [sensors.take(Core.M4_0, contract, at_seconds=0.0)[:, 0].tolist() for _ in range(2)]
    assert windows == [[0, 1, 2, 3], [4, 5, 0, 1]]
    assert sensors.take(Core.M4_1, contract, at_seconds=0.0)[:, 0].tolist() == [0, 1, 2, 3]
    assert len(surfaces.photos) == len(load_photos())


def test_two_sources_for_one_sensor_are_refused(tmp_path: Path) -> None:
    """One of them would never be heard."""
    (tmp_path / "a.csv").write_text("1\n")
    both = [accelerometer("a.csv", sample_rate_hz=10)] * 2
    with pytest.raises(ReplayError, match="expected one source for each kind"):
        read_sources(both, tmp_path, photos=())
