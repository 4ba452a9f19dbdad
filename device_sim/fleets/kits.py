"""What runs the kernels of a fleet's cores, and what its devices sense: real, recorded, or emulated."""

from device_sim.cores.kernels import Inference
from device_sim.cores.recorded import RecordedInference
from device_sim.emulation.opening import open_emulated
from device_sim.fleets.crew import Crew
from device_sim.fleets.outfit import Kit
from device_sim.sensors.fitted import FittedSensors
from device_sim.sensors.recorded import RecordedSensors, SampleLibrary
from protocol.scenario.fleets import Fidelity, Fleet, InferenceSource


class KitRoom:
    """Makes the kits of a run; fleets share what they can.

    Args:
        pool: the host's TFLM workers.
        seed: of the scenario.
    """

    def __init__(self, pool: Inference, *, seed: int) -> None:
        self._pool = pool
        self._recorded = RecordedInference(pool)
        self._seed = seed
        self._emulated: Inference | None = None

    def kit(self, crew: Crew) -> Kit:
        """Return the kit of a fleet.

        Raises:
            EmulationMissingError: the fleet's cores are to be emulated, and what that needs is not installed.
        """
        match source_of(crew.fleet):
            case InferenceSource.RECORDED:
                library = SampleLibrary(crew.surfaces, seed=self._seed)
                return Kit(
                    crew.fleet,
                    self._recorded,
                    lambda device_id, conditions: RecordedSensors(device_id, library, conditions=conditions),
                )
            case InferenceSource.EMULATED:
                self._emulated = self._emulated or open_emulated()
                return self._sensing(crew, self._emulated)
            case _:
                return self._sensing(crew, self._pool)

    def _sensing(self, crew: Crew, pool: Inference) -> Kit:
        return Kit(
            crew.fleet,
            pool,
            lambda device_id, conditions: FittedSensors(
                device_id, crew.surfaces, conditions=conditions, seed=self._seed
            ),
        )


def source_of(fleet: Fleet) -> InferenceSource:
    """Return who answers for the cores of a fleet's devices."""
    if fleet.inference is not None:
        return fleet.inference
    return InferenceSource.TFLM if fleet.fidelity is Fidelity.FULL else InferenceSource.RECORDED
