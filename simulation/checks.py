"""What a scenario asks of its virtual devices that no virtual device does: refused before anything begins.

A key that would change nothing is an error, not a quiet default. What virtual devices do: docs/simulator/virtual.md.
"""

from collections.abc import Iterator

from device_sim.fleets.outfit import UnknownProfileError, profile_of
from protocol.geometry import ImageKind, Slot
from protocol.plan import MeanGate, Metric
from protocol.plan.targets import ModelTest, leaves_of
from protocol.scenario import Scenario
from protocol.scenario.document import ANY
from protocol.scenario.faults import ReleaseFaultKind
from protocol.scenario.fleets import Fidelity, Fleet, InferenceSource
from protocol.scenario.happenings import HappeningKind
from protocol.scenario.hardware import DefectKind, HardwareRevision
from protocol.sensing import SensorConditions, SensorKind
from simulation.errors import VirtualScenarioError
from simulation.watching import gates_of, looks_at_windows

INFERENCE_HAPPENINGS = frozenset({HappeningKind.VIBRATION, HappeningKind.LOAD})
MODELS = frozenset(slot for slot in Slot if slot.kind is ImageKind.MODEL)
LIGHT_ALONE = {"lighting", "sensor", "starts_seconds", "ends_seconds", "every_seconds"}


def check_virtual(scenario: Scenario) -> None:
    """Refuse what virtual devices do not do.

    Raises:
        VirtualScenarioError: the first of it, with where it is.
    """
    fleets = [fleet for fleet in scenario.fleets if fleet.fidelity is Fidelity.VIRTUAL]
    if not fleets:
        raise VirtualScenarioError("scenario: expected a fleet with `fidelity: virtual`, found none")
    for name, revision in scenario.hardware.items():
        _check_profile(name, revision)
    _check_models(scenario)
    for refusal in _refusals(scenario, fleets):
        raise VirtualScenarioError(f"{refusal}, which virtual devices do not simulate; use full or light ones")


def _check_profile(name: str, revision: HardwareRevision) -> None:
    try:
        profile_of(revision.profile)
    except UnknownProfileError as error:
        raise VirtualScenarioError(f"hardware.{name}.{error}") from error


def _refusals(scenario: Scenario, fleets: list[Fleet]) -> Iterator[str]:
    for fleet in fleets:
        yield from _of_fleet(fleet)
    for name in dict.fromkeys(name for fleet in fleets for name in fleet.hardware):
        yield from _of_revision(f"hardware.{name}", scenario.hardware[name])
    yield from _of_faults(scenario, fleets)
    yield from _of_plans(scenario)
    for number, each in enumerate(scenario.happenings):
        named = [fleet for fleet in fleets if each.fleet in (None, fleet.name)]
        if each.kind in INFERENCE_HAPPENINGS and _reaches(named, hardware=each.hardware, region=each.region):
            yield f"happenings.{number}: expected no virtual fleet to be hit, found {each.kind.value}"


def _of_fleet(fleet: Fleet) -> Iterator[str]:
    where = f"fleet {fleet.name}"
    if fleet.inference not in (None, InferenceSource.NONE):
        yield f"{where}.inference: expected none, found {fleet.inference.value}"
    if fleet.sensors:
        yield f"{where}.sensors: expected none, found {fleet.sensors[0].sensor.value}"
    for each in fleet.conditions:
        if not _is_light(each):
            yield f"{where}.conditions: expected lighting of a camera alone, found {sorted(each.model_fields_set)}"


def _is_light(conditions: SensorConditions) -> bool:
    return conditions.sensor in (None, SensorKind.CAMERA) and conditions.model_fields_set <= LIGHT_ALONE


def _of_revision(where: str, revision: HardwareRevision) -> Iterator[str]:
    default = HardwareRevision().profile
    if revision.profile != default:
        yield f"{where}.profile: expected {default}, found {revision.profile}: a latency"
    for defect in revision.defects:
        if defect.kind is not DefectKind.BROWN_OUT:
            yield f"{where}.defects: expected {DefectKind.BROWN_OUT.value}, found {defect.kind.value}"


def _of_faults(scenario: Scenario, fleets: list[Fleet]) -> Iterator[str]:
    for number, fault in enumerate(scenario.release_faults):
        hit = [fleet for fleet in fleets if _reaches([fleet], hardware=fault.hardware, region=fault.region)]
        if fault.kind is ReleaseFaultKind.DRIFT and hit and not any(_is_told_of(scenario, fleet) for fleet in hit):
            expected = "models that infer, and a plan with gates of control or means that look at them"
            yield f"release_faults.{number}: expected {expected}, found {fault.kind.value} alone"
    for number, kernel_fault in enumerate(scenario.kernel_faults):
        if kernel_fault.after_inferences and _reaches(fleets, hardware=kernel_fault.hardware, region=None):
            yield f"kernel_faults.{number}.after_inferences: expected 0, found {kernel_fault.after_inferences}"


def _is_told_of(scenario: Scenario, fleet: Fleet) -> bool:
    """Whether devices of a fleet tell how their models do."""
    return fleet.inference is not InferenceSource.NONE and looks_at_windows(scenario, fleet)


def _of_plans(scenario: Scenario) -> Iterator[str]:
    for number, rollout in enumerate(scenario.rollouts):
        filters = () if rollout.plan is None else rollout.plan.filters
        for test in (test for each in filters for test in leaves_of(each)):
            if isinstance(test, ModelTest):
                yield f"rollouts.{number}.plan: expected no filter by what a model's card says, found one"
        for gate in gates_of(rollout):
            if isinstance(gate, MeanGate) and gate.metric is Metric.ARENA:
                expected = f"{Metric.LATENCY.value} or {Metric.CONFIDENCE.value}"
                yield f"rollouts.{number}.plan, gate {gate.name}: expected {expected}, found {gate.metric.value}"


def _check_models(scenario: Scenario) -> None:
    """Refuse faults of models that nobody has; other fleets may get theirs from an operator."""
    if any(fleet.fidelity is not Fidelity.VIRTUAL for fleet in scenario.fleets):
        return
    names = {image.name for release in scenario.releases for slot, image in release.images.items() if slot in MODELS}
    known = names | {f"{name.partition('@')[0]}@{ANY}" for name in names}
    for number, fault in enumerate(scenario.kernel_faults):
        if fault.model not in known:
            expected = ", ".join(sorted(names)) or "one"
            raise VirtualScenarioError(
                f"kernel_faults.{number}.model: expected {expected} of the releases, found {fault.model}"
            )


def _reaches(fleets: list[Fleet], *, hardware: str | None, region: str | None) -> bool:
    """Whether what goes wrong on a revision and in a region may go wrong on a device of these fleets."""
    return any(
        (hardware is None or hardware in fleet.hardware) and (region is None or region in fleet.regions)
        for fleet in fleets
    )
