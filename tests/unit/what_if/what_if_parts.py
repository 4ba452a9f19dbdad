"""Small fleets and plans for questions."""

from datetime import datetime
from typing import Any

import numpy as np

from protocol.plan import PRESETS, Plan
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault
from simulation.what_if.course import COARSE, Course, Ended, Precision
from simulation.what_if.fleet import model_of
from simulation.what_if.planned import under
from simulation.what_if.sampling import Aggregated, EachDevice

START = datetime.fromisoformat("2026-01-05T08:00:00+00:00")


def scenario_of(devices: int = 20_000, **more: Any) -> Scenario:
    """Return a scenario with one fleet; keys of the fleet come as `fleet`."""
    fleet = {"name": "cameras", "devices": devices, "fidelity": "virtual", **more.pop("fleet", {})}
    return Scenario.model_validate({"start": START, "fleets": [fleet], **more})


def fault(kind: str, share: float, **more: Any) -> ReleaseFault:
    """Return a fault of every release."""
    return ReleaseFault.model_validate({"release": "*", "kind": kind, "share": share, **more})


def preset(name: str, **changes: Any) -> Plan:
    """Return a preset with other keys."""
    return Plan.model_validate({**PRESETS[name], **changes})


def run(
    plan: Plan,
    scenario: Scenario,
    *faults: ReleaseFault,
    base_failure: float = 0.01,
    seed: int = 1,
    precision: Precision = COARSE,
    each: bool = False,
) -> Ended:
    """Run one rollout."""
    model = under(plan, model_of(scenario, base_failure=base_failure, faults=faults), origin=scenario.start)
    rng = np.random.default_rng(seed)
    sampler = EachDevice(model, rng) if each else Aggregated(model, rng)
    return Course(model, plan, sampler, origin=scenario.start, precision=precision, keeps_timeline=True).run()
