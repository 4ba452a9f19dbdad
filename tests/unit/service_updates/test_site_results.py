"""What has become of a site's devices, as the gates of a rollout see it."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from protocol.messages import ActionState, Cause
from service.domain.action import Action
from service.domain.gates.failure_rate import FailureRateGate
from service.domain.gates.site_rate import MOST_DEVICES, Result, SiteEvidence
from service.domain.policy import CauseGate
from service.domain.sites import SiteDevice, joined, judged, site_of

NOW = datetime(2030, 1, 1, tzinfo=UTC)
ALL: frozenset[Cause] = frozenset()
BOOT = frozenset({Cause.BOOT})
FAILURES = CauseGate("failures", FailureRateGate(), group_by="site")
BROKEN = CauseGate("broken", FailureRateGate(), causes=BOOT, group_by="site")


def action(device: str = "d", state: ActionState = ActionState.OFFERED, cause: Cause | None = None) -> Action:
    return Action(f"a-{device}", "r", device, 0, state, NOW, None, cause=cause, offered=True)


def device(state: ActionState = ActionState.OFFERED, cause: Cause | None = None) -> SiteDevice:
    return SiteDevice("d", "site", "=x", 1).after(action(state=state, cause=cause))


@pytest.mark.parametrize(
    ("state", "cause", "causes", "expected"),
    [
        (ActionState.OFFERED, None, ALL, Result()),
        (ActionState.CONFIRMED, None, ALL, Result(cleared=True)),
        (ActionState.FAILED, Cause.DOWNLOAD, ALL, Result(failed=True)),
        (ActionState.FAILED, Cause.DOWNLOAD, BOOT, Result(cleared=True)),
        (ActionState.REVERTED, None, BOOT, Result(failed=True)),
        (ActionState.TIMED_OUT, Cause.SILENT, ALL, Result()),
        (ActionState.TIMED_OUT, Cause.SILENT, frozenset({Cause.SILENT}), Result(failed=True)),
        (ActionState.CANCELLED, None, ALL, Result()),
    ],
)
def test_result_is_what_counts_of_devices_are(
    state: ActionState, cause: Cause | None, causes: frozenset[Cause], expected: Result
) -> None:
    """Silence is no result unless it is counted, withdrawn devices have none, and other causes clear a device."""
    assert device(state, cause).result(causes) == expected


def test_failure_stays_when_the_device_is_tried_again() -> None:
    """A later success does not take it back; a gate on another cause waits for how the attempt ends."""
    failed = device(ActionState.FAILED, Cause.DOWNLOAD)
    again = failed.after(action(state=ActionState.INSTALLING))
    assert again.result(ALL) == Result(failed=True)
    assert again.result(BOOT) == Result()
    confirmed = again.after(action(state=ActionState.CONFIRMED))
    assert confirmed.result(ALL) == Result(failed=True)
    assert confirmed.result(BOOT) == Result(cleared=True)
    assert again.after(action(state=ActionState.REVERTED)).result(BOOT) == Result(failed=True)


def test_no_value_is_the_site_of_a_device_without_one() -> None:
    """Even where somebody names a site after a device."""
    assert site_of("ab", {"site": "ab"}, "site") != site_of("ab", {}, "site")
    assert site_of("ab", {"site": "x"}, "site") == site_of("cd", {"site": "x", "ring": "y"}, "site")


def test_places_follow_the_order_of_starts_and_end() -> None:
    """A device keeps its place; beyond the first sixty-four none has one."""
    members: list[SiteDevice] = []
    for number in range(MOST_DEVICES + 3):
        members = list(joined(members, action(f"d{number}"), attribute="site", site="=x"))
    members = list(joined(members, action("d0", ActionState.CONFIRMED), attribute="site", site="=x"))
    assert [each.device_id for each in members] == [f"d{number}" for number in range(MOST_DEVICES)]
    assert [each.place for each in members] == list(range(1, MOST_DEVICES + 1))
    assert members[0].is_confirmed


def test_each_gate_is_told_of_its_own_causes() -> None:
    """A download that broke off moves the gate on all failures; the gate on boots hears that the device is settled."""
    begun = joined([], action(), attribute="site", site="=x")
    ended = joined(begun, action(state=ActionState.FAILED, cause=Cause.DOWNLOAD), attribute="site", site="=x")
    kept = judged({}, [FAILURES, BROKEN], [], begun)
    after = judged(kept, [FAILURES, BROKEN], begun, ended)
    struck = {name: SiteEvidence.of(of_gate).struck for name, of_gate in after.items()}
    assert struck == {"failures": 1, "broken": 0}
    assert judged(after, [FAILURES, BROKEN], ended, [replace(each) for each in ended]) == after
