"""Sensors for devices that are too many to sense: input tensors that are made once and shared.

Each kind of input, under each disturbance, has a few samples that `sensors.fitted` took and the core's front end made
ready. A device goes through them from a place of its own on. Disturbances are told apart by steps, so that a light that
fades does not make new samples at every moment. Not for models that keep state: they need a signal that goes on.
"""

import hashlib
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from device_sim.cores.front_end import FrontEnd
from device_sim.sensors.disturbance import Disturbance, disturbance
from device_sim.sensors.fitted import FittedSensors, Surfaces
from protocol.geometry import Core
from protocol.identity import DeviceId
from protocol.model import InputContract
from protocol.sensing import MechanicalFault, SensorConditions

SAMPLES = 32  # of a kind of input under a disturbance; a person detector's take 3.5 MB together
_ONE_HOUR = 3600.0  # seconds
_STEP = 0.05  # of lighting, noise, drift and severity
_NOBODY = DeviceId("0" * 128)  # who took the samples


@dataclass(frozen=True, slots=True)
class _Kind:
    contract: InputContract
    lighting: float
    noise: float
    drift: float
    faults: tuple[tuple[MechanicalFault, float], ...]


class SampleLibrary:
    """Samples of a fleet, made when they are first asked for; any number of threads may share it.

    Args:
        surfaces: what there is to sense.
        samples: of each kind.
        seed: of the scenario.
    """

    def __init__(self, surfaces: Surfaces, *, samples: int = SAMPLES, seed: int = 1) -> None:
        self._surfaces = surfaces
        self._samples = samples
        self._seed = seed
        self._made: dict[_Kind, Sequence[np.ndarray]] = {}
        self._lock = threading.Lock()

    def samples(self, contract: InputContract, found: Disturbance) -> Sequence[np.ndarray]:
        """Return the samples of a kind of input under a disturbance."""
        kind = _kind(contract, found)
        with self._lock:
            if kind not in self._made:
                self._made[kind] = self._make(kind)
            return self._made[kind]

    def _make(self, kind: _Kind) -> Sequence[np.ndarray]:
        sensors = FittedSensors(_NOBODY, self._surfaces, conditions=_conditions(kind), seed=self._seed)
        front_end = FrontEnd(kind.contract, is_stateful=False)
        taken = (sensors.take(Core.M4_0, kind.contract, at_seconds=_ONE_HOUR) for _ in range(self._samples))
        tensors = [front_end.tensors(sample)[0] for sample in taken]
        for tensor in tensors:
            tensor.flags.writeable = False
        return tensors


class RecordedSensors:
    """The sensors of one light device; see `sensors.ports.Sensors`.

    Args:
        device_id: decides with which sample it begins.
        library: of its fleet.
        conditions: what disturbs its sensors.
    """

    def __init__(
        self, device_id: DeviceId, library: SampleLibrary, *, conditions: Sequence[SensorConditions] = ()
    ) -> None:
        self._first = int.from_bytes(hashlib.sha256(device_id.encode()).digest()[:4], "big")
        self._library = library
        self._conditions = tuple(conditions)
        self._taken: Counter[Core] = Counter()

    def take(self, core: Core, contract: InputContract, *, at_seconds: float) -> np.ndarray:
        """Return an input tensor that is ready; see the port."""
        samples = self._library.samples(contract, disturbance(self._conditions, contract.sensor, at_seconds))
        number = self._first + self._taken[core]
        self._taken[core] += 1
        return samples[number % len(samples)]


def _kind(contract: InputContract, found: Disturbance) -> _Kind:
    faults = sorted((fault, _rounded(severity)) for fault, severity in found.faults.items())
    return _Kind(contract, _rounded(found.lighting), _rounded(found.noise), _rounded(found.drift), tuple(faults))


def _rounded(value: float) -> float:
    return round(value / _STEP) * _STEP


def _conditions(kind: _Kind) -> Sequence[SensorConditions]:
    """Return conditions that disturb as a kind says once they have held for an hour."""
    shade = SensorConditions(lighting=min(1.0, kind.lighting), noise=min(1.0, kind.noise))
    drift = SensorConditions(drift_per_hour=kind.drift)
    faults = (SensorConditions(fault=fault, severity=severity) for fault, severity in kind.faults)
    return (shade, drift, *faults)
