"""What is wrong with a board does not depend on how real its device is."""

from pathlib import Path

import pytest

from device_sim.cores.faults import faults_of as faults_of_core
from device_sim.fleets.defects import defects_of
from device_sim.fleets.folders import PublicFacts, read_facts
from device_sim.fleets.making import identity_of, make_fleets
from device_sim.fleets.plan import plan_fleet
from protocol.geometry import Core
from protocol.scenario import Scenario
from simulation.devices.faults import faults_of
from simulation.images import make_catalogue
from simulation.setup import plan_devices

SCENARIO = Scenario.model_validate(
    {
        "hardware": {
            "h": {
                "defects": [
                    {"kind": "brown-out", "share": 0.3, "every": 100},
                    {"kind": "brown-out", "share": 0.3, "every": 200},
                ]
            }
        },
        "fleets": [{"name": "f", "devices": 200, "fidelity": "virtual", "hardware": {"h": 1}}],
        "kernel_faults": [{"model": "m@1", "kind": "crash", "share": 0.3}],
    }
)


def test_full_and_virtual_devices_have_the_same_faults() -> None:
    """Each board's defects and kernel faults, device by device."""
    catalogue = make_catalogue(SCENARIO)
    found = set()
    for plan in plan_fleet(SCENARIO, SCENARIO.fleets[0]):
        device_id = identity_of(SCENARIO, plan)
        virtual = faults_of(SCENARIO, catalogue, plan, device_id)
        real = defects_of(SCENARIO, plan, device_id).brown_out_every or 0
        kernels = faults_of_core(SCENARIO, device_id, Core.M4_0)
        assert (virtual.brown_out_every, tuple(virtual.kernel_faults)) == (real, kernels)
        found.add((real, len(kernels)))
    assert found == {(every, count) for every in (0, 100, 200) for count in (0, 1)}


@pytest.mark.parametrize("fidelity", ["full", "light"])
def test_devices_of_a_seed_are_the_same_in_every_fidelity(tmp_path: Path, fidelity: str) -> None:
    """Ids are those of real identity keys; so what a seed draws by id strikes the same devices."""
    document = {"seed": 9, "hardware": {"h": {}}, "regions": {"r": {}}}
    fleet = {"name": "f", "devices": 6, "hardware": {"h": 0.5}, "regions": {"r": 0.5}}

    def with_fidelity(name: str) -> Scenario:
        return Scenario.model_validate({**document, "fleets": [{**fleet, "fidelity": name}]})

    made = [read_facts(folder) for folder in make_fleets(with_fidelity(fidelity), tmp_path)]
    virtual = [PublicFacts.of(each.device_id, each.plan) for each in plan_devices(with_fidelity("virtual"))]
    assert made == virtual
