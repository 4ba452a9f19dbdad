"""What a device keeps of its progress, and how it says it."""

from pathlib import Path

from protocol.document import verify_document
from protocol.messages import MANIFEST_PAYLOAD_TYPE, MAX_DETAIL_CHARACTERS, ActionState, VersionManifest
from tests.unit.device_update.update_builder import ACTION, ready_device


def test_detail_that_quotes_anything_is_cut_and_cleaned(tmp_path: Path) -> None:
    """A hostile image's name with a zero character and without end; the service takes the report and the manifest."""
    device = ready_device(tmp_path)
    hostile = "name\x00" * MAX_DETAIL_CHARACTERS
    device.progress.begin(ACTION)
    device.progress.report(ActionState.FAILED, detail=hostile, attack_indicator=hostile)
    device.progress.send(device.wire)
    (report,) = device.wire.reports
    assert report.detail == ("name\ufffd" * MAX_DETAIL_CHARACTERS)[:MAX_DETAIL_CHARACTERS]
    manifest = verify_document(
        device.wire.manifests[-1],
        MANIFEST_PAYLOAD_TYPE,
        VersionManifest,
        trusted_keys=[device.machine.rot.public_key],
    )
    assert manifest.attack_indicator == report.detail
    device.machine.close()
