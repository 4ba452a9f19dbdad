"""What a device keeps of its progress, and how it says it."""

from pathlib import Path

from device_sim.update.progress import Refusal
from protocol.document import verify_document
from protocol.messages import MANIFEST_PAYLOAD_TYPE, MAX_DETAIL_CHARACTERS, ActionState, Attack, VersionManifest
from tests.unit.device_update.update_builder import ACTION, ready_device


def test_detail_that_quotes_anything_is_cut_and_cleaned(tmp_path: Path) -> None:
    """A hostile image's name with a zero character and without end; the service takes the report and the manifest."""
    device = ready_device(tmp_path)
    hostile = "name\x00" * MAX_DETAIL_CHARACTERS
    device.progress.begin(ACTION)
    refusal = Refusal("TargetRefusedError", Attack.ARBITRARY_SOFTWARE)
    device.progress.report(ActionState.FAILED, detail=hostile, refusal=refusal)
    device.progress.send(device.wire)
    (report,) = device.wire.reports
    assert report.detail == ("name\ufffd" * MAX_DETAIL_CHARACTERS)[:MAX_DETAIL_CHARACTERS]
    manifest = verify_document(
        device.wire.manifests[-1],
        MANIFEST_PAYLOAD_TYPE,
        VersionManifest,
        trusted_keys=[device.machine.rot.public_key],
    )
    assert manifest.attack_indicator == f"TargetRefusedError: {report.detail}"[:MAX_DETAIL_CHARACTERS]
    assert (manifest.attack, report.attack) == (Attack.ARBITRARY_SOFTWARE, Attack.ARBITRARY_SOFTWARE)
    device.machine.close()
