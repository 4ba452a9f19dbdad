"""What a device sees and knows of time."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from device_sim.adapters.clock import WallClock
from device_sim.errors import ClockRollbackError
from device_sim.hardware.clock import FIRST_FLOOR, MAX_STEP_BACK, DeviceClock
from device_sim.sensors.camera import FRAMES_PER_PHOTO, SENSOR_LINES, SMALLEST_WINDOW, Camera, as_resolved
from device_sim.sensors.fitted import read_sources
from protocol.identity import DeviceId
from tests.unit.device_hardware.device_builder import BUILT_AT, ManualClock
from tinyml.photos import Photo, load_photos

ONE, OTHER = DeviceId("1" * 128), DeviceId("2" * 128)


def test_clock_counts_from_its_floor_until_it_is_told() -> None:
    """No battery: after power-on the device does not know the time."""
    host = ManualClock()
    clock = DeviceClock(host)
    host.seconds = 5.0
    assert clock.now() == FIRST_FLOOR + timedelta(seconds=5)
    assert not clock.is_synchronised
    clock.learn(BUILT_AT)
    host.seconds = 8.0
    assert clock.now() == BUILT_AT + timedelta(seconds=3)
    assert clock.floor == BUILT_AT


def test_time_below_the_floor_is_refused_and_the_floor_stays() -> None:
    """A replayed old time does not set the clock back; a small difference between servers does no harm."""
    clock = DeviceClock(ManualClock(), floor=BUILT_AT)
    clock.learn(BUILT_AT - MAX_STEP_BACK)
    assert clock.now() == clock.floor == BUILT_AT
    with pytest.raises(ClockRollbackError, match="expected 2026-11-01"):
        clock.learn(BUILT_AT - MAX_STEP_BACK - timedelta(seconds=1))


def test_wall_clock_gives_aware_time_that_does_not_fall() -> None:
    """The one adapter that reads the host."""
    clock = WallClock()
    first, second = clock.monotonic(), clock.monotonic()
    assert first <= second
    assert clock.now().utcoffset() == timedelta(0)


def test_camera_shows_the_same_frames_to_the_same_device() -> None:
    """Seeded by the device id and the scenario."""
    photos = load_photos()
    frames = [
        [camera.take() for _ in range(8)]
        for camera in (Camera(ONE, photos), Camera(ONE, photos), Camera(OTHER, photos), Camera(ONE, photos, seed=2))
    ]
    windows = [[(frame.photo, frame.window) for frame in taken] for taken in frames]
    assert windows[0] == windows[1]
    assert windows[0] not in (windows[2], windows[3])
    np.testing.assert_array_equal(frames[0][3].pixels, frames[1][3].pixels)


def test_camera_pans_within_every_photo() -> None:
    """Square RGB windows inside the photo, each photo in turn, moving from frame to frame."""
    photos = {photo.name: photo for photo in load_photos()}
    camera = Camera(ONE, list(photos.values()))
    frames = [camera.take() for _ in range(FRAMES_PER_PHOTO * len(photos))]
    assert {frame.photo for frame in frames} == set(photos)
    assert [frame.sequence for frame in frames] == list(range(len(frames)))
    for frame in frames:
        height, width, _ = photos[frame.photo].pixels.shape
        assert frame.pixels.shape == (frame.window.height, frame.window.width, 3)
        assert frame.pixels.dtype == np.uint8
        assert int(min(height, width) * SMALLEST_WINDOW) <= frame.window.width <= min(height, width)
    assert len({frame.window for frame in frames[:FRAMES_PER_PHOTO]}) > 1


def test_camera_resolves_no_more_than_its_sensor() -> None:
    """A large photo is reduced to 240 lines, each pixel the mean of its area; a small one stays as it is."""
    fine = np.zeros((480, 960, 3), np.uint8)
    fine[::2, ::2] = 200
    seen = as_resolved(Photo("grid", fine, shows_person=False, expected=""))
    assert seen.pixels.shape == (SENSOR_LINES, 2 * SENSOR_LINES, 3)
    assert np.array_equal(seen.pixels, np.full_like(seen.pixels, 50))
    assert not seen.pixels.flags.writeable
    assert as_resolved(seen) is seen


def test_scenario_photos_are_hung_as_the_sensor_sees_them() -> None:
    """Whatever they are of: the demo's are no exception."""
    surfaces = read_sources((), Path(), photos=load_photos())
    assert {min(photo.pixels.shape[:2]) for photo in surfaces.photos} == {SENSOR_LINES}
    assert [photo.name for photo in surfaces.photos] == [photo.name for photo in load_photos()]
