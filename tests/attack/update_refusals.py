"""A device after a legitimate update, an attack on the next one, and the proof that nothing changed."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from device_sim.hardware.secure_storage import RELEASE_FLOOR
from protocol.document import verify_document
from protocol.geometry import HOME_BYTES, Slot
from protocol.messages import MANIFEST_PAYLOAD_TYPE, ActionReport, ActionState, Attack, Cause, VersionManifest
from tests.unit.device_update.update_builder import Updated, info_of, ready_device

SLOT = Slot.M4_0_MODEL
SECOND_ACTION = "33333333-3333-4333-8333-333333333333"
LEGITIMATE_COUNTER = 5
ARTIFACTS = "/device/v1/artifacts/"


def updated_device(tmp_path: Path) -> Updated:
    """A device after a legitimate update of one model, whose release has a counter above the first."""
    ready = ready_device(tmp_path)
    package = ready.offer_model(version="2.0.0", counter=LEGITIMATE_COUNTER)
    ready.run()
    assert ready.wire.states[-1] is ActionState.CONFIRMED
    assert ready.digests()[SLOT] == hashlib.sha256(package).hexdigest()
    ready.catalog.action_id = SECOND_ACTION
    return ready


def assert_refused(
    device: Updated, cause: Cause, detail: str, attack: Attack | None = Attack.ARBITRARY_SOFTWARE
) -> None:
    """Run the action; the device reports why it refuses and is what it was, now and after a restart."""
    before = state_of(device)
    device.run()
    report = device.wire.reports[-1]
    assert (report.action_id, report.state, report.cause) == (SECOND_ACTION, ActionState.FAILED, cause)
    assert detail in report.detail
    assert ActionState.TRIAL not in states_of(device, SECOND_ACTION)
    manifest = last_manifest(device)
    assert (report.attack, manifest.attack) == (attack, attack)
    assert manifest.attack_indicator == (f"{report.rule}: {report.detail}"[:500] if attack else "")
    for _ in range(2):
        assert state_of(device) == before
        assert report.digests == before.digests
        assert all(core.is_running for core in device.machine.cores.values())
        device.restart()


@dataclass(frozen=True)
class State:
    """What an attack must not change: every byte of the home slots, what is installed, and what must not fall."""

    flash: bytes
    digests: dict[Slot, str]
    fuses: dict[Slot, int]
    floors: dict[str, bytes | None]


def state_of(device: Updated) -> State:
    storage = device.machine.storage
    return State(
        flash=(device.folder / "flash.bin").read_bytes()[: sum(HOME_BYTES.values())],
        digests=dict(device.digests()),
        fuses={slot: device.machine.rot.fuse(slot) for slot in Slot},
        floors={name: storage.get(name) for name in storage.names() if name.startswith(RELEASE_FLOOR)},
    )


def states_of(device: Updated, action_id: str) -> list[ActionState]:
    return [report.state for report in reports_of(device, action_id)]


def reports_of(device: Updated, action_id: str) -> list[ActionReport]:
    return [report for report in device.wire.reports if report.action_id == action_id]


def last_manifest(device: Updated) -> VersionManifest:
    """The last version manifest, verified by the device's identity key."""
    envelope = device.wire.manifests[-1]
    trusted = [device.machine.rot.public_key]
    return verify_document(envelope, MANIFEST_PAYLOAD_TYPE, VersionManifest, trusted_keys=trusted)


def offer(device: Updated, package: bytes, *, counter: int = LEGITIMATE_COUNTER + 1, **custom: object) -> str:
    """Roll a package out with golden vectors of its component; return its target name."""
    golden = device.catalog.add_golden(info_of(package).component_id)
    target = device.catalog.add_image(SLOT, package, golden=golden, **custom)
    device.catalog.roll_out({SLOT: target}, counter=counter)
    return target
