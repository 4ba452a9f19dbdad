"""What `rollout explain` prints of an explanation."""

import pytest

from service.cli.explaining import print_explanation

AT = "2030-01-01T08:00:00Z"
DEVICE = {
    "device_id": "ab" * 64,
    "stage": 1,
    "state": "confirmed",
    "failed_at": AT,
    "attempts": [
        {"state": "failed", "cause": "download", "detail": "expected 4 bytes, found 3", "ended_at": AT},
        {"state": "confirmed", "cause": None, "detail": "", "ended_at": AT},
    ],
}
FAILED = {"causes": ["download"], "devices": 45, "first": [DEVICE]}
DECISION = {
    "decided_at": AT,
    "decision": "halted",
    "stage": 1,
    "gate": "failures",
    "reason": "expected at most 0.02",
    "figures": {"failures.ln_halt": 7.2, "failures.halts_at": 4.6},
    "failed": [FAILED],
}


def test_decision_is_printed_with_figures_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """Evidence, threshold, who had failed, and each attempt of those that failed first."""
    print_explanation({"rollout": {"state": "halted"}, "decisions": [DECISION], "failed": [FAILED]})
    words = " ".join(capsys.readouterr().out.split())
    for expected in ("failures.ln_halt 7.2", "failures.halts_at 4.6", "and 44 more", "45 devices, the first 1"):
        assert expected in words
    assert "expected 4 bytes, found 3" in words
