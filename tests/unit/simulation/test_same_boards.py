"""What is wrong with a board does not depend on how real its device is."""

import hashlib

from device_sim.cores.faults import faults_of as faults_of_core
from device_sim.fleets.defects import defects_of
from device_sim.fleets.plan import identity_seed, plan_fleet
from protocol.geometry import Core
from protocol.identity import DeviceId
from protocol.scenario import Scenario
from simulation.devices.faults import faults_of
from simulation.images import make_catalogue

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
        device_id = DeviceId(hashlib.sha512(identity_seed(SCENARIO, plan)).hexdigest())
        virtual = faults_of(SCENARIO, catalogue, plan, device_id)
        real = defects_of(SCENARIO, plan, device_id).brown_out_every or 0
        kernels = faults_of_core(SCENARIO, device_id, Core.M4_0)
        assert (virtual.brown_out_every, tuple(virtual.kernel_faults)) == (real, kernels)
        found.add((real, len(kernels)))
    assert found == {(every, count) for every in (0, 100, 200) for count in (0, 1)}
