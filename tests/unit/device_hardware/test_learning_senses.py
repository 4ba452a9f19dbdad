"""A device whose accelerometer sits on a machine: it learns, judges, and sees a fault begin, in its telemetry."""

import uuid

import pytest

from device_sim.hardware.machine import Machine
from device_sim.runtime.inference import CoreWatch
from device_sim.sensors.fitted import FittedSensors, Surfaces
from protocol.document import canonical_json, parse_document
from protocol.geometry import Core, Slot
from protocol.messages import InferenceRecord
from protocol.sensing import MechanicalFault, SensorConditions
from tests.learning_template import learning_template, template_card, template_payload
from tests.unit.device_hardware.device_builder import DeviceBuilder
from tinyml.photos import load_photos

SLOT = Slot.M4_1_MODEL
WARM_UP = 60
PERIOD = 0.5
FAULT_AT, SECONDS = 60.0, 90.0


@pytest.fixture
def machine(builder: DeviceBuilder) -> Machine:
    made = builder.ready()
    component = str(uuid.uuid5(uuid.NAMESPACE_URL, SLOT))
    template = learning_template(warm_up=WARM_UP)
    payload = template_payload(template, template_card(template, component=component))
    package = builder.packages._compose(SLOT, payload, "vibration@1.0.0", security=1, key=None)
    made.flash_factory({SLOT: package})
    made.boot()
    return made


def live(builder: DeviceBuilder, machine: Machine, fault: MechanicalFault) -> list[InferenceRecord]:
    """Live for some device time, of which the machine is broken from a moment on; both cores run."""
    broken = SensorConditions(fault=fault, severity=0.3, starts_seconds=FAULT_AT)
    sensors = FittedSensors(machine.device_id, Surfaces(load_photos()), conditions=(broken,))
    watches = {core: CoreWatch(core, machine, sensors, period_seconds=PERIOD) for core in machine.cores}
    due, records = dict.fromkeys(watches, 0.0), []
    while (core := min(due, key=lambda core: due[core])) and due[core] < SECONDS:
        builder.clock.seconds = max(builder.clock.seconds, due[core])
        record = watches[core].run()
        records += [] if record is None else [record]
        due[core] = watches[core].due
    return records


@pytest.mark.parametrize("fault", MechanicalFault)
def test_fault_shows_in_the_telemetry_from_its_beginning(
    builder: DeviceBuilder, machine: Machine, fault: MechanicalFault
) -> None:
    """Learning, then normal, then anomaly, with the similarity as the score; the sibling's photos are not disturbed."""
    records = live(builder, machine, fault)
    own = [record for record in records if record.core is Core.M4_1]
    assert [record.label for record in own[:WARM_UP]] == ["learning"] * WARM_UP
    healthy = [record for record in own[WARM_UP:] if (record.device_seconds or 0) < FAULT_AT]
    broken = [record for record in own if (record.device_seconds or 0) > FAULT_AT + PERIOD]
    assert len(healthy) > 50
    assert len(broken) > 50
    assert {record.label for record in healthy} == {"normal"}
    assert {record.label for record in broken} == {"anomaly"}
    assert all(0.5 < record.score <= 1 and record.m4_ms == 0.256 for record in (*healthy, *broken))
    assert parse_document(canonical_json(broken[0]), InferenceRecord) == broken[0]
    assert len([record for record in records if record.core is Core.M4_0]) >= len(own) - 1
