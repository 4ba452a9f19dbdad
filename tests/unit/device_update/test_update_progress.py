"""What a device keeps of its progress, and how it says it."""

from pathlib import Path

from device_sim.update.progress import MAX_WAITING, Refusal
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


def test_final_report_outlives_a_flood_of_others(tmp_path: Path) -> None:
    """What is not final makes room first, also where it is the newest."""
    device = ready_device(tmp_path)
    device.progress.begin(ACTION)
    device.progress.report(ActionState.FAILED, detail="the end")
    device.progress.begin("33333333-3333-4333-8333-333333333333")
    for count in range(2 * MAX_WAITING):
        device.progress.report(ActionState.DOWNLOADING, detail=str(count))
    device.progress.send(device.wire)
    first, *others = device.wire.reports
    assert (first.detail, len(others)) == ("the end", MAX_WAITING - 1)
    assert others[-1].detail == str(2 * MAX_WAITING - 1)
    device.machine.close()


def test_same_words_are_said_once(tmp_path: Path) -> None:
    """A report that differs in its sequence alone is not kept, also after a restart and once the first was sent."""
    device = ready_device(tmp_path)
    device.progress.begin(ACTION)
    device.progress.report(ActionState.DOWNLOADING, detail="model")
    device.progress.send(device.wire)
    device.restart()
    device.progress.report(ActionState.DOWNLOADING, detail="model")
    device.progress.report(ActionState.DOWNLOADING, detail="another")
    device.progress.send(device.wire)
    assert [(report.sequence, report.detail) for report in device.wire.reports] == [(0, "model"), (1, "another")]
    device.machine.close()


def test_half_a_surrogate_pair_does_not_stop_a_report(tmp_path: Path) -> None:
    """JSON may escape what no other document carries."""
    device = ready_device(tmp_path)
    device.progress.begin(ACTION)
    device.progress.report(ActionState.DOWNLOADING, detail="half \ud800")
    device.progress.send(device.wire)
    assert device.wire.reports[-1].detail == "half ?"
    device.machine.close()


def test_further_attempt_begins_anew_and_an_earlier_one_does_not(tmp_path: Path) -> None:
    """The end of the first attempt is known, also after a restart; the second is reported as such."""
    device = ready_device(tmp_path)
    device.progress.begin(ACTION)
    device.progress.report(ActionState.FAILED, detail="first")
    device.restart()
    assert not device.progress.begin(ACTION, attempt=1)
    assert device.progress.begin(ACTION, attempt=2)
    device.progress.report(ActionState.DOWNLOADING)
    device.restart()
    assert (device.progress.unfinished_action, device.progress.attempt) == (ACTION, 2)
    assert device.progress.begin(ACTION, attempt=2)
    device.progress.report(ActionState.FAILED, detail="second")
    assert not device.progress.begin(ACTION, attempt=1)
    device.progress.send(device.wire)
    said = [(report.attempt, report.sequence, report.state) for report in device.wire.reports]
    assert said[0] == (1, 0, ActionState.FAILED)
    assert said[-1] == (2, 1, ActionState.FAILED)
    device.machine.close()
