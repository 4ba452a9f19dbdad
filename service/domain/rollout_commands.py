"""What a person may do with a rollout: start, pause, resume, retry, install, abort it, or have it rolled back.

Each takes a rollout and returns what it has become; said again, it changes nothing. `halted` and `aborted` never lead
back to `running`; `finished` does by a retry of what failed, and so does `aborted` where nobody was left to have the
release, for those that were shut out meanwhile. Who wants to go on after a halt starts a new rollout; devices that
already run the release are confirmed in it without work.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from service.domain.membership import StageCut
from service.domain.rollout import Rollout, RolloutState, RolloutStateError
from service.domain.rollout_evaluation import evaluate
from service.domain.shadowing import agreement
from service.domain.stage import StageState
from service.domain.verdict import APPROVAL, Decision, Verdict


def start(rollout: Rollout, cuts: Sequence[StageCut], *, now: datetime) -> Rollout:
    """Start a draft; a running rollout stays as it is.

    Raises:
        RolloutStateError: it is neither draft nor running.
    """
    if rollout.state is RolloutState.RUNNING:
        return rollout
    _expect(rollout, RolloutState.DRAFT)
    stages = tuple(replace(stage, cut=cut) for stage, cut in zip(rollout.stages, cuts, strict=True))
    conditions = rollout.conditions
    begun = replace(
        rollout,
        state=RolloutState.RUNNING,
        stages=stages,
        resumed_at=now,
        paced_at=conditions.pacing.first(now),
        deadline_at=None if conditions.deadline is None else now + conditions.deadline,
    )
    return evaluate(begun, now)


def pause(rollout: Rollout) -> Rollout:
    """Pause a running rollout: nothing new is offered, what has begun may end.

    Raises:
        RolloutStateError: it is neither running nor paused.
    """
    if rollout.state is RolloutState.PAUSED:
        return rollout
    _expect(rollout, RolloutState.RUNNING)
    return replace(rollout, state=RolloutState.PAUSED)


def resume(rollout: Rollout, now: datetime) -> Rollout:
    """Let a paused rollout run again; what it asked is answered with yes, and a deadline that is over asks no more.

    Raises:
        RolloutStateError: it is neither paused nor running.
    """
    if rollout.state is RolloutState.RUNNING:
        return rollout
    _expect(rollout, RolloutState.PAUSED)
    is_late = rollout.deadline_at is not None and rollout.deadline_at <= now
    resumed = replace(
        _answered(rollout, now),
        state=RolloutState.RUNNING,
        question="",
        resumed_at=now,
        paced_at=now,
        deadline_at=None if is_late else rollout.deadline_at,
    )
    return evaluate(resumed, now)


def retry(rollout: Rollout, now: datetime) -> Rollout:
    """Give the release again to the devices that failed or were shut out, inside the pace.

    One that has finished, or ended with nobody left, runs again until they have a result. A question about a stage is
    answered by it: neither yes nor no, but once more. A rollout that a person has paused goes on when it is resumed.

    Args:
        rollout: as it is stored.
        now: UTC, aware.

    Raises:
        RolloutStateError: it is a draft, halted or aborted by a person, or was rolled back.
    """
    if rollout.is_undone:
        raise RolloutStateError("rollout: expected one that was not rolled back, found one that was")
    has_ended = rollout.state is RolloutState.FINISHED or rollout.has_ended_empty
    if not has_ended:
        _expect(rollout, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FINISHED)
    again = replace(rollout, retry_cursor=0)
    asked = any(rollout.question and stage.reason == rollout.question for stage in rollout.stages)
    if has_ended or asked:
        again = replace(again, state=RolloutState.RUNNING, question="", resumed_at=now, paced_at=now)
    return evaluate(again, now)


def abort(rollout: Rollout) -> Rollout:
    """End a rollout for good; its unstarted actions are then cancelled in batches.

    Raises:
        RolloutStateError: it has finished.
    """
    if rollout.state is RolloutState.ABORTED:
        return rollout
    _expect(rollout, RolloutState.DRAFT, RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.HALTED)
    return replace(rollout, state=RolloutState.ABORTED, question="")


def install(rollout: Rollout, now: datetime) -> Rollout:
    """Have devices install what they wait with, stage by stage; no change once that was said.

    Raises:
        RolloutStateError: it does not run, or its plan has nothing wait.
    """
    if rollout.is_released:
        return rollout
    _expect(rollout, RolloutState.RUNNING)
    if not rollout.conditions.download_only:
        raise RolloutStateError("rollout: expected one that only downloads, found one that installs by itself")
    waiting = tuple(
        replace(stage, state=StageState.WAITING, reason="") if stage.state is StageState.DOWNLOADING else stage
        for stage in rollout.stages
    )
    return evaluate(replace(rollout, stages=waiting, is_released=True, resumed_at=now), now)


def mark_undone(rollout: Rollout, by: str, *, reason: str = "") -> Rollout:
    """Record that the devices which were given the release are brought back.

    Args:
        rollout: is over.
        by: id of the rollout that does it; empty where nothing can.
        reason: why nothing can.
    """
    if rollout.is_undone:
        return rollout
    verdict = Verdict(Decision.ROLLED_BACK, f"by rollout {by}" if by else f"not rolled back: {reason}")
    return replace(rollout, is_undone=True).decided(verdict)


def _expect(rollout: Rollout, *states: RolloutState) -> None:
    if rollout.state not in states:
        expected = " or ".join(states)
        reason = f" ({rollout.halted_reason})" if rollout.halted_reason else ""
        raise RolloutStateError(f"rollout: expected {expected}, found {rollout.state}{reason}")


def _answered(rollout: Rollout, now: datetime) -> Rollout:
    """Take a person's yes for the stage that was asked about, if one was; its reason is the question then."""
    asked = [stage for stage in rollout.stages if rollout.question and stage.reason == rollout.question]
    if not asked:
        return rollout
    if asked[0].state is StageState.SHADOWING:
        promoted = Verdict(Decision.PROMOTED, f"{agreement(asked[0].counts)}; approved by a person", asked[0].index)
        return rollout.promoted(replace(promoted, gate=APPROVAL), now)
    return rollout.with_stage(replace(asked[0], is_approved=True))
