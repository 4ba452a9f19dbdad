"""Orders, what a shadow counts, and the plans that ask for either."""

from typing import Any

import pytest
from pydantic import ValidationError

from protocol.messages import ActionReport, ActionState
from protocol.plan import Plan, Shadow
from protocol.scenario import Scenario
from protocol.shadow import MAX_LABEL_CHARACTERS, ShadowCounts, ShadowTask, pair
from protocol.updates import DirectorDevice, Order

DEVICE_ID = "a" * 128
ACTION_ID = "22222222-2222-4222-8222-222222222222"
TASK = ShadowTask(frames=10, longest_seconds=60)
STAGES = [{"percent": 100}]


def test_device_that_differs_on_no_frame_and_one_that_saw_none() -> None:
    """The share is of the compared frames; without any it is all."""
    assert ShadowCounts(frames=10, agreements=9).differs == pytest.approx(0.1)
    assert ShadowCounts(frames=0, agreements=0).differs == 1


def test_more_agreements_than_frames_are_refused() -> None:
    """The message says how many there may be."""
    with pytest.raises(ValidationError, match="expected at most 3 frames, found 4"):
        ShadowCounts(frames=3, agreements=4)


def test_pair_of_labels_is_bounded_and_printable() -> None:
    """Longer labels are cut, and no zero character is left."""
    found = pair("x" * 99, "a\0b")
    assert found == f"{'x' * MAX_LABEL_CHARACTERS} > a\ufffdb"
    assert ShadowCounts(frames=1, agreements=0, differing={found: 1}).differing == {found: 1}


@pytest.mark.parametrize(("order", "task"), [(Order.SHADOW, None), (Order.INSTALL, TASK), (Order.DOWNLOAD, TASK)])
def test_order_and_task_go_together(order: Order, task: ShadowTask | None) -> None:
    """A task is there for the order to shadow, and for no other."""
    with pytest.raises(ValidationError, match="expected a task beside the order to shadow"):
        DirectorDevice(device_id=DEVICE_ID, order=order, shadow=task)


def test_order_to_shadow_names_its_task() -> None:
    """Where nothing is said, a device installs."""
    assert DirectorDevice(device_id=DEVICE_ID, order=Order.SHADOW, shadow=TASK).shadow == TASK
    assert DirectorDevice(device_id=DEVICE_ID).order is Order.INSTALL


def test_counts_come_with_the_state_shadowing_alone() -> None:
    """A report of anything else that carries some is malformed."""
    counts = ShadowCounts(frames=1, agreements=1)
    ActionReport(action_id=ACTION_ID, sequence=1, state=ActionState.SHADOWING, shadow=counts)
    with pytest.raises(ValidationError, match="expected counts beside the state shadowing alone, found trial"):
        ActionReport(action_id=ACTION_ID, sequence=1, state=ActionState.TRIAL, shadow=counts)


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        ({"shadow": {}, "gates": {"kind": "thresholds"}}, "expected evidence gates"),
        ({"shadow": {}, "gates": {"kind": "evidence", "failures": [{"name": "shadow"}]}}, "expected no gate shadow"),
        ({"shadow": {"worst": 0.01}}, "expected above the acceptable 0.02"),
        ({"shadow": {"disagreement": 0.6, "expected_disagreement": 0.5}}, "expected below 1"),
        ({"shadow": {"longest": "10ms"}}, "expected at least 1s"),
        (
            {"download_only": True, "deferral": {"most": 1, "longest": "1d"}},
            "say `rollout install` when",
        ),
        (
            {"shadow": {}, "disruption": {"group_by": "site"}},
            "then bring it to all by one with disruption",
        ),
    ],
)
def test_plan_that_makes_no_shadow_is_refused(plan: dict[str, Any], match: str) -> None:
    """The message says what does not go together."""
    with pytest.raises(ValidationError, match=match):
        Plan.model_validate({"stages": STAGES, **plan})


def test_stated_change_is_tolerated_beside_the_disagreement() -> None:
    """Both shares add up."""
    assert Shadow(expected_disagreement=0.25, disagreement=0.125).tolerated == 0.375
    assert Plan.model_validate({"stages": STAGES, "shadow": {}, "download_only": True}).download_only


FLEET = {"name": "cameras", "devices": 1, "fidelity": "virtual"}
RELEASE = {"name": "r1", "images": {"m4-0/model": {"name": "person@2.0", "bytes": 1000}}}
WAITING = {"stages": STAGES, "download_only": True}


def scenario(rollout: dict[str, Any], **more: Any) -> Scenario:
    """A virtual fleet with one rollout."""
    rollouts = [{"release": "r1", **rollout}]
    return Scenario.model_validate({"fleets": [FLEET], "releases": [RELEASE], "rollouts": rollouts, **more})


def test_virtual_rollout_takes_a_plan() -> None:
    """The word to install is given some time after its start."""
    found = scenario({"plan": WAITING, "installs_after": "1h"}).rollouts[0]
    assert found.plan is not None
    assert found.plan.download_only


@pytest.mark.parametrize(
    ("rollout", "match"),
    [
        ({}, "either a plan or stages"),
        ({"plan": WAITING, "stages": STAGES}, "either a plan or stages"),
        ({"plan": WAITING, "min_reports": 3}, "expected it alone, found min_reports"),
        ({"stages": STAGES, "installs_after": "1h"}, "expected a plan with download_only"),
    ],
)
def test_virtual_rollout_by_two_ways_or_none_is_refused(rollout: dict[str, Any], match: str) -> None:
    """A plan, or stages with thresholds."""
    with pytest.raises(ValidationError, match=match):
        scenario(rollout)


def test_release_disagrees_on_a_share_of_the_frames() -> None:
    """Half of them where nothing is said, never more than all."""
    fault = {"release": "r1", "kind": "disagree"}
    assert scenario({"stages": STAGES}, release_faults=[fault]).release_faults[0].strength == 0.5
    with pytest.raises(ValidationError, match="expected at most 1, which is every frame"):
        scenario({"stages": STAGES}, release_faults=[{**fault, "factor": 2}])
