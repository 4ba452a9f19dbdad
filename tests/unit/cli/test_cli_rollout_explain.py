"""What `rollout explain` prints of an explanation."""

from typing import Any

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


def explanation(*, state: str = "running", **lists: Any) -> dict[str, Any]:
    """The service's answer, with nothing in the lists that are not given."""
    empty: dict[str, Any] = {name: [] for name in ("decisions", "failed", "waiting", "compared", "counted")}
    empty["missed"] = {"devices": 0, "first": []}
    return {"rollout": {"state": state}, **empty, **lists}


def test_decision_is_printed_with_figures_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """Evidence, threshold, who had failed, and each attempt of those that failed first."""
    print_explanation(explanation(state="halted", decisions=[DECISION], failed=[FAILED]))
    words = " ".join(capsys.readouterr().out.split())
    for expected in ("failures.ln_halt 7.2", "failures.halts_at 4.6", "and 44 more", "45 devices, the first 1"):
        assert expected in words
    assert "expected 4 bytes, found 3" in words


def test_devices_that_wait_are_printed_with_what_they_wait_for(capsys: pytest.CaptureFixture[str]) -> None:
    """How many, and the first in line."""
    device = {"device_id": "cd" * 64, "stage": 2, "detail": "site=quay: found 1", "not_before": None}
    waiting = [{"hold": "budget", "devices": 7, "first": [device]}]
    print_explanation(explanation(waiting=waiting))
    words = " ".join(capsys.readouterr().out.split())
    assert "wait for others of their place: 7 devices, the first 1" in words
    assert "stage 2: site=quay: found 1" in words


def test_devices_that_compared_are_printed_with_their_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """Also one whose candidate broke."""
    counts = {"frames": 100, "agreements": 60, "differing": {"person > no person": 40}, "failure": ""}
    broke = counts | {"frames": 2, "agreements": 2, "differing": {}, "failure": "hang: expected an answer"}
    first = [{"device_id": "ef" * 64, "stage": 1, "state": "shadowing", "shadow": found} for found in (counts, broke)]
    print_explanation(explanation(compared=[{"agrees": False, "devices": 9, "first": first}]))
    words = " ".join(capsys.readouterr().out.split())
    assert "disagreed in shadow: 9 devices, the first 2" in words
    assert "now shadowing: 60 of 100 frames alike, 40 x person > no person" in words
    assert "2 of 2 frames alike; broke: hang: expected an answer" in words


def test_counted_devices_are_printed_by_gate_with_their_number(capsys: pytest.CaptureFixture[str]) -> None:
    """The first of each kind; of means those alone that said something."""
    drifted = {"gate": "drift", "device_id": "ab" * 64, "arm": "canary", "what": "drift", "detail": "found 9", "at": AT}
    kind = {"gate": "drift", "arm": "canary", "what": "drift", "devices": 4000, "first": [drifted]}
    pair = drifted | {"gate": "means", "arm": "control", "what": "latency", "device_id": "cd" * 64, "detail": ""}
    silent = {"gate": "means", "arm": "control", "what": "latency", "devices": 1, "first": [pair]}
    print_explanation(explanation(counted=[kind, silent]))
    words = " ".join(capsys.readouterr().out.split())
    assert "counted by drift, canary, drift: 4000 devices, the first 1" in words
    assert "counted by means, control, latency: 1 devices" in words
    assert "abab" in words
    assert "cdcd" not in words


def test_devices_that_a_rollback_missed_are_printed_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """How many, and the first; without any nothing is said of it."""
    first = [{"device_id": "ef" * 64, "reason": "the device is decommissioned"}]
    print_explanation(explanation(missed={"devices": 30, "first": first}))
    words = " ".join(capsys.readouterr().out.split())
    assert "out of a rollback's reach, though they were given the release: 30 devices, the first 1" in words
    assert "the device is decommissioned" in words
    print_explanation(explanation())
    assert "not reached" not in capsys.readouterr().out
