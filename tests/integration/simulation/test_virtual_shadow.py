"""Whole rollouts that wait or compare first, over virtual devices."""

from typing import Any

import pytest

from protocol.messages import ActionState
from service.domain.rollout import RolloutState
from service.domain.verdict import Decision, Verdict
from simulation.driving import drive
from tests.integration.simulation.virtual_scenarios import Told, run, scenario

SHADOW = {"frames": 60, "longest": "1h"}


def planned(devices: int, *, installs_after: str | None = None, **changes: Any) -> Any:
    """A fleet and one rollout by a plan; `changes` are the scenario's."""
    plan = {
        "stages": [{"percent": 50, "resolved": 1.0}, {"percent": 100}],
        "gates": {"kind": "evidence"},
        "device_timeout": "1h",
        **changes.pop("plan", {}),
    }
    rollout: dict[str, Any] = {"release": "r1", "at": "5m", "plan": plan}
    if installs_after is not None:
        rollout["installs_after"] = installs_after
    return scenario(devices, rollouts=[rollout], **changes)


def decisions(told: Told) -> list[Verdict]:
    """What was decided, oldest first."""

    rollout_id = told.rollout.rollout_id

    async def read() -> list[Verdict]:
        async with told.world.database(read_only=True) as work:
            found = await work.rollouts.verdicts(rollout_id, after_number=0, limit=100)
            return [stored.verdict for stored in found]

    return drive(read())


def states(told: Told) -> dict[str, list[str]]:
    """What each device reported of its update, in order."""
    found: dict[str, list[str]] = {}
    for event in told.named("update"):
        found.setdefault(event["device"], []).append(event["state"])
    return found


def test_release_is_fetched_by_everybody_and_installed_at_a_word() -> None:
    """Until the operator's word nobody installs; then the stages go on as in any rollout."""
    told = run(
        planned(40, installs_after="2h", plan={"download_only": True, "stages": [{"percent": 50}, {"percent": 100}]})
    )
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 40
    word = told.world.clock.at(300 + 7200).isoformat()
    downloaded = told.named("update", state="downloaded")
    assert len(downloaded) == 40
    assert all(event["time"] < word for event in downloaded)
    assert all(event["time"] >= word for event in told.named("update", state="installing"))
    first = max(event["time"] for event in told.named("update", state="confirmed")[:20])
    installed = sorted(event["time"] for event in told.named("update", state="installing"))
    assert installed[20] >= first


def test_waiting_devices_survive_reboots_and_wait_on() -> None:
    """After a power cut the image is there whole, and the device waits beyond its time-out."""
    happenings = [{"at": "1h", "kind": "reboot", "lasts": "30s"}]
    told = run(
        planned(
            20,
            installs_after="1d",
            happenings=happenings,
            plan={"download_only": True, "stages": [{"percent": 100}]},
        )
    )
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 20
    assert all(seen.count(ActionState.DOWNLOADED.value) == 1 for seen in states(told).values())
    assert not told.named("update", state="timed-out")


def test_model_that_agrees_is_promoted_and_runs_everywhere() -> None:
    """The first stage's devices compare; then they install, and the second stage installs at once."""
    lenient = {"kind": "evidence", "failures": [{"worst": 0.2}]}
    told = run(planned(116, plan={"shadow": SHADOW, "gates": lenient}))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 116
    assert told.rollout.stages[0].counts.agreed >= 50
    assert told.rollout.stages[1].counts.agreed == 0
    assert [verdict.decision for verdict in decisions(told)][:2] == [Decision.OPENED, Decision.PROMOTED]
    promoted = decisions(told)[1]
    assert float(promoted.figures["shadow.ln_pass"]) >= float(promoted.figures["shadow.passes_at"])
    compared = [seen for seen in states(told).values() if ActionState.SHADOWING.value in seen]
    assert 55 <= len(compared) <= 61


def test_model_that_disagrees_is_halted_before_anybody_runs_it() -> None:
    """On a third of the devices it answers otherwise: no device installs, and what was fetched is let go."""
    faults = [{"release": "r1", "kind": "disagree", "share": 0.3, "factor": 0.4}]
    told = run(planned(116, plan={"shadow": SHADOW}, release_faults=faults))
    assert told.rollout.state is RolloutState.HALTED
    assert "expected at most 0.02 of the devices to disagree in shadow" in told.rollout.halted_reason
    assert told.running() == 0
    assert not told.named("update", state="installing")
    assert told.rollout.unresolved == 0
    assert all(device.machine.spare.digest == "" for device in told.world.devices.values())


def test_change_that_was_stated_is_no_disagreement() -> None:
    """Where the plan expects the model to differ on as many frames, it is promoted."""
    faults = [{"release": "r1", "kind": "disagree", "factor": 0.4}]
    told = run(planned(40, plan={"shadow": {**SHADOW, "expected_disagreement": 0.4}}, release_faults=faults))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.running() == 40


@pytest.mark.parametrize("kind", ["crash", "hang"])
def test_one_candidate_that_breaks_halts_a_small_stage(kind: str) -> None:
    """It broke unheard: the old model answered on, and nobody runs the new one."""
    faults = [{"model": "person@2.0", "kind": kind, "share": 0.2}]
    told = run(planned(40, plan={"shadow": SHADOW}, kernel_faults=faults))
    assert told.rollout.state is RolloutState.HALTED
    assert "expected no model that breaks in shadow" in told.rollout.halted_reason
    assert told.running() == 0


def test_small_stage_that_disagrees_asks_a_person() -> None:
    """No test can decide, so the rollout asks, and nobody runs the model meanwhile."""
    faults = [{"release": "r1", "kind": "disagree", "share": 0.1, "factor": 1.0}]
    patient = {**SHADOW, "acceptable": 0.3, "worst": 0.5}
    told = run(planned(40, plan={"shadow": patient}, release_faults=faults, length="1h"))
    assert told.rollout.state is RolloutState.PAUSED
    assert "agreed in shadow" in told.rollout.question
    assert told.running() == 0


def test_comparison_that_a_reboot_cut_begins_again() -> None:
    """Counts that were not reported yet are lost with the power, and made anew."""
    happenings = [{"at": "330s", "kind": "reboot", "lasts": "5s"}]
    told = run(planned(40, plan={"shadow": {"frames": 600}}, happenings=happenings))
    assert told.rollout.state is RolloutState.FINISHED
    assert told.rollout.stages[0].counts.agreed == 20


def test_download_only_and_shadow_follow_one_another() -> None:
    """First everybody fetches; at the word the first stage compares, and installs once it has agreed."""
    told = run(planned(40, installs_after="1h", plan={"download_only": True, "shadow": SHADOW}))
    assert told.rollout.state is RolloutState.FINISHED
    order = ["downloading", "downloaded", "shadowing", "shadowing", "installing", "trial", "confirmed"]
    assert sum(_without_repeats(seen) == order for seen in states(told).values()) == 20


def _without_repeats(seen: list[str]) -> list[str]:
    return [state for number, state in enumerate(seen) if state != "downloading" or number == 0]
