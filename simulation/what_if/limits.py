"""What of a plan an answer does not show: keys that the plan sets, and that nothing here simulates."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from protocol.document import Document
from protocol.messages import Cause
from protocol.plan import EvidenceGates, HealthEvent, Plan
from simulation.what_if.fleet import FleetModel

_SHOWN = frozenset(
    {"version", "name", "description", "stages", "hold_out", "pace", "gates", "device_timeout", "deadline"}
    | {"retries", "forced", "maintenance", "time_zone", "disruption"}
)
_SHOWN_OF_STAGES = frozenset({"count", "percent", "soak", "resolved"})
_SHOWN_OF_GATES = frozenset({"kind", "alpha", "beta", "failures", "control", "small_stage_rule"})
_REASONS: Mapping[str, str] = MappingProxyType(
    {
        "roll_back": "a rollout ends with its halt",
        "deferral": "nobody puts it off",
        "means": "nothing tells of latency, confidence or memory",
        "offline": "devices that have confirmed do not fall silent",
        "faults": "every frame has an answer",
        "causes": "a device that fell silent is not tried again",
        "group_by": "every device is taken for a site of its own",
    }
)
_SHOWN_BY_NOTHING = (HealthEvent.OFFLINE, HealthEvent.FAULTS)  # no device of an answer has such an event
_OTHERWISE = "as if the plan did not say it"


def not_simulated(plan: Plan) -> tuple[str, ...]:
    """Return what an answer leaves out, a line for each key of the plan that it concerns."""
    return tuple(f"{name}: {_REASONS.get(name.rpartition('.')[2], _OTHERWISE)}" for name in _left_out(plan))


def left_out_of_places(model: FleetModel) -> tuple[str, ...]:
    """Return where a disruption budget is left out, in a line or none; the model is the fleet as it is under a plan."""
    if not model.unbound:
        return ()
    where = "their places have devices with other offline hours, outages or windows"
    devices = max(1, round(model.unbound * model.devices))
    return (f"disruption: {devices:,} devices wait for nobody, because {where}",)


def _left_out(plan: Plan) -> Iterator[str]:
    yield from _set(plan, _SHOWN)
    if plan.retries is not None and Cause.SILENT in plan.retries.causes:
        yield "retries.causes"
    stages = (name for stage in plan.stages for name in _set(stage, _SHOWN_OF_STAGES))
    yield from (f"stages.{name}" for name in dict.fromkeys(stages))
    if isinstance(plan.gates, EvidenceGates):
        yield from (f"gates.{name}" for name in _set(plan.gates, _SHOWN_OF_GATES))
        if any(gate.group_by for gate in plan.gates.failures):
            yield "gates.failures.group_by"
        counted = {event for gate in plan.gates.control for event in gate.events}
        yield from (f"gates.control.{event}" for event in _SHOWN_BY_NOTHING if event in counted)


def _set(document: Document, shown: frozenset[str]) -> Iterator[str]:
    """Yield keys that say something else than their defaults, apart from those that are shown."""
    for name, field in type(document).model_fields.items():
        if name not in shown and getattr(document, name) != field.get_default(call_default_factory=True):
            yield name
