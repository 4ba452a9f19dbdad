"""The sensors that a device is fitted with: real photos, synthesised or replayed signals, and what disturbs them.

Deterministic: what a core takes depends on the device, the seed, how much it took before, and the conditions at the
device time of taking.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from device_sim.sensors.accelerometer import Accelerometer
from device_sim.sensors.camera import Camera, as_resolved
from device_sim.sensors.disturbance import disturb_photo, disturb_sound, disturb_vibration, disturbance
from device_sim.sensors.microphone import Microphone
from device_sim.sensors.replay import Recording, ReplayError, at_rate, read_photos, read_recording
from protocol.geometry import Core
from protocol.identity import DeviceId
from protocol.model import InputContract
from protocol.sensing import SensorConditions, SensorKind, SensorSource, SignalContract
from tinyml.photos import Photo


@dataclass(frozen=True, slots=True)
class Surfaces:
    """What there is to sense for the devices of a fleet; shared by them.

    Attributes:
        photos: hang on the wall that the cameras look at; as fine as their sensors see (`camera.as_resolved`).
        sound: is played to the microphones; None: a room.
        vibration: is played to the accelerometers; None: a machine.
    """

    photos: Sequence[Photo]
    sound: Recording | None = None
    vibration: Recording | None = None


def read_sources(sources: Sequence[SensorSource], folder: Path, *, photos: Sequence[Photo]) -> Surfaces:
    """Read what a scenario lets sensors replay.

    Args:
        sources: at most one for each kind of sensor.
        folder: that their paths are relative to.
        photos: where no source is of a camera.

    Raises:
        ReplayError: two for one kind, or a file that is not of the expected form.
    """
    by_kind = {source.sensor: source for source in sources}
    if len(by_kind) != len(sources):
        raise ReplayError(f"sensors: expected one source for each kind, found {len(sources)} for {len(by_kind)}")
    camera = by_kind.get(SensorKind.CAMERA)
    recordings = {
        kind: read_recording(source, folder) for kind, source in by_kind.items() if kind is not SensorKind.CAMERA
    }
    hung = photos if camera is None else read_photos(camera, folder)
    return Surfaces(
        photos=tuple(map(as_resolved, hung)),
        sound=recordings.get(SensorKind.MICROPHONE),
        vibration=recordings.get(SensorKind.ACCELEROMETER),
    )


class FittedSensors:
    """The sensors of one device; see `sensors.ports.Sensors`.

    Args:
        device_id: decides what they sense.
        surfaces: what there is to sense.
        conditions: what disturbs them.
        seed: of the scenario.
    """

    def __init__(
        self,
        device_id: DeviceId,
        surfaces: Surfaces,
        *,
        conditions: Sequence[SensorConditions] = (),
        seed: int = 1,
    ) -> None:
        self._device_id = device_id
        self._surfaces = surfaces
        self._conditions = tuple(conditions)
        self._seed = seed
        # Each core looks for itself, so that what one takes makes no difference to the other.
        self._cameras = {core: Camera(device_id, surfaces.photos, seed=seed) for core in Core}
        self._taken: Counter[tuple[Core, SensorKind]] = Counter()  # samples of signals

    def take(self, core: Core, contract: InputContract, *, at_seconds: float) -> np.ndarray:
        """Return what the sensor that a model listens to senses; see the port."""
        found = disturbance(self._conditions, contract.sensor, at_seconds)
        if contract.signal is None:
            frame = self._cameras[core].take()
            if found.spares_photos:
                return frame.pixels
            return disturb_photo(frame.pixels, found, self._chance(f"{core} camera", frame.sequence))
        start = self._taken[core, contract.sensor]
        self._taken[core, contract.sensor] += contract.signal.window_samples
        chance = self._chance(f"{core} {contract.sensor}", start)
        if contract.sensor is SensorKind.MICROPHONE:
            return disturb_sound(self._sound(core, contract.signal, start), found, chance)
        if self._surfaces.vibration is not None:
            samples = _replayed(self._surfaces.vibration, contract.signal, start)
        else:
            machine = Accelerometer(self._device_id, stream=core, seed=self._seed)
            signal = contract.signal
            samples = machine.feel(start, signal.window_samples, signal.sample_rate_hz, faults=found.faults)
        return disturb_vibration(samples, found, chance)

    def _sound(self, core: Core, signal: SignalContract, start: int) -> np.ndarray:
        if self._surfaces.sound is not None:
            return _replayed(self._surfaces.sound, signal, start)[:, 0]
        room = Microphone(self._device_id, stream=core, seed=self._seed)
        return room.hear(start, signal.window_samples, signal.sample_rate_hz)

    def _chance(self, stream: str, number: int) -> np.random.Generator:
        text = f"{self._seed}\0{self._device_id}\0{stream}\0{number}"
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def _replayed(recording: Recording, signal: SignalContract, start: int) -> np.ndarray:
    return at_rate(recording, signal.sample_rate_hz).part(start, signal.window_samples)
