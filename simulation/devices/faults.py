"""Which faults of a scenario a virtual device has: decided by its seed and id alone, before it does anything."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from device_sim.cores.faults import has_fault
from device_sim.fleets.choices import is_hit
from device_sim.fleets.defects import declared_defects_of
from device_sim.fleets.effects import strikes_in_update
from device_sim.fleets.plan import DevicePlan
from protocol.geometry import Core
from protocol.identity import DeviceId
from protocol.messages import Cause
from protocol.scenario import FaultKind, KernelFault, Scenario
from protocol.scenario.document import ANY
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from protocol.scenario.hardware import DefectKind
from simulation.devices.inference import Strike
from simulation.images import Catalogue

_KERNEL_CAUSES: Mapping[FaultKind, Cause] = {
    FaultKind.HANG: Cause.HANG,
    FaultKind.CRASH: Cause.CRASH,
    FaultKind.GARBAGE: Cause.GOLDEN_VECTORS,
}
AFTERWARDS = frozenset(
    {ReleaseFaultKind.CRASH_LOOP, ReleaseFaultKind.BRICK, ReleaseFaultKind.SLOW, ReleaseFaultKind.DRIFT}
)


@dataclass(slots=True)
class Faults:
    """Faults of one device.

    Attributes:
        release_faults: with the digests of the images that bring them.
        kernel_faults: of its cores.
        brown_out_every: mean number of flash operations between two brown-outs; 0 for none.
        is_bricked: whether it is silent for good.
    """

    release_faults: Sequence[tuple[ReleaseFault, frozenset[str]]] = ()
    kernel_faults: Sequence[KernelFault] = ()
    brown_out_every: int = 0
    is_bricked: bool = field(default=False, init=False)

    def of_image(self, kind: ReleaseFaultKind, digest: str) -> bool:
        """Whether an image fails in a way, while it is installed."""
        return any(
            fault.kind is kind and digest in digests and (kind not in AFTERWARDS or strikes_in_update(fault))
            for fault, digests in self.release_faults
        )

    def disagrees(self, digest: str) -> float:
        """Return the share of frames on which a model in shadow answers otherwise."""
        strengths = (
            fault.strength
            for fault, digests in self.release_faults
            if fault.kind is ReleaseFaultKind.DISAGREE and digest in digests
        )
        return max(strengths, default=0.0)

    def afterwards(self, digests: Sequence[str]) -> list[ReleaseFault]:
        """Return what will go wrong some time after these images were confirmed."""
        return [
            fault
            for fault, bringing in self.release_faults
            if fault.kind in AFTERWARDS and bringing.intersection(digests)
        ]

    def strikes(self, kind: ReleaseFaultKind, digest: str, *, confirmed: float) -> tuple[Strike, ...]:
        """Return what an image does to its core once it is confirmed.

        Args:
            kind: slow or drift.
            digest: of the image.
            confirmed: when, seconds of the scenario.
        """
        return tuple(
            Strike(confirmed + fault.after.total_seconds(), fault.strength, fault.only_in_the_dark)
            for fault, bringing in self.release_faults
            if fault.kind is kind and digest in bringing
        )

    def of_kernel(self, core: Core, model: str) -> Cause | None:
        """Return how a core fails with a model, or None."""
        name, _, version = model.partition("@")
        for fault in self.kernel_faults:
            wanted, _, versions = fault.model.partition("@")
            if fault.core in (None, core) and wanted == name and versions in (ANY, version):
                return _KERNEL_CAUSES[fault.kind]
        return None

    def brick(self) -> None:
        """Make the device silent for good."""
        self.is_bricked = True


HEALTHY = Faults()


def faults_of(scenario: Scenario, catalogue: Catalogue, plan: DevicePlan, device_id: DeviceId) -> Faults:
    """Return the faults that a device has."""
    brought = {release.document.name: frozenset(release.stored.digests.values()) for release in catalogue.releases[1:]}
    everything: frozenset[str] = frozenset().union(*brought.values())
    release_faults = [
        (fault, everything if fault.release == ANY else brought.get(fault.release, frozenset()))
        for number, fault in enumerate(scenario.release_faults)
        if fault.hardware in (None, plan.hardware)
        and fault.region in (None, plan.region)
        and is_hit(scenario.seed, f"release-fault/{number}", device_id, share=fault.share)
    ]
    kernel_faults = [
        fault
        for fault in scenario.kernel_faults
        if fault.hardware in (None, plan.hardware) and has_fault(scenario.seed, fault, device_id)
    ]
    defects = declared_defects_of(scenario, plan, device_id)
    brown_out = next((defect.every for defect in reversed(defects) if defect.kind is DefectKind.BROWN_OUT), 0)
    return Faults(release_faults, kernel_faults, brown_out) if release_faults or kernel_faults or brown_out else HEALTHY
