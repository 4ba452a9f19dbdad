"""The rollout engine: what a staged rollout decides, as a pure function of what has been counted.

`evaluate` takes the rollout and the time and returns what it has become; `next_look` says when time alone may change
that.

Invariants:
    - Decisions depend on counts, not on their order, and are the policy's (service/domain/policy.py). A device without
      a result counts as a success until it fails: that only delays a halt.
    - A stage opens only when the one before it has passed; exposure never passes the open stages, nor the pace.
    - Where a stage has all its results and they neither halt nor pass, the rollout pauses and asks a person. The answer
      is taken for what was asked, and for nothing else that has come up since.
    - A stage whose devices have all been taken from it has shown nothing, and opens no other without a person's word;
      a rollout whose devices have all been taken from it has not finished.
    - Every decision is stored with its reason.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from service.domain.order import NO_POSITION
from service.domain.policy import result
from service.domain.rollout import Rollout, RolloutState
from service.domain.shadowing import agreement, has_compared
from service.domain.stage import Stage, StageState
from service.domain.verdict import APPROVAL, Decision, Verdict


def evaluate(rollout: Rollout, now: datetime) -> Rollout:
    """Return what the rollout has become; equal to the argument if nothing changes.

    Args:
        rollout: as it is stored, with what has been counted since.
        now: UTC, aware.
    """
    if rollout.state not in {RolloutState.RUNNING, RolloutState.PAUSED}:
        return rollout
    rollout = _on_the_clock(rollout, now)
    opened = rollout.opened
    halt = (rollout.conditions.policy.halt(opened, rollout.kept) or _halt_in_shadow(rollout)) if opened else None
    if halt is not None:
        return _halted(rollout, halt)
    if rollout.state is RolloutState.RUNNING:
        for index in range(len(rollout.stages)):
            rollout = _advanced(rollout, index, now)
        rollout = _asking(rollout, now)
    return _finished(rollout, now)


def next_look(rollout: Rollout, now: datetime) -> datetime | None:
    """Return when the worker must look at the rollout again, or None if only reports move it."""
    if rollout.state.is_over:
        is_left = rollout.is_to_be_undone or any(stage.counts.scheduled for stage in rollout.stages)
        return now if is_left else None
    kept_look = rollout.conditions.policy.next_look(rollout.kept) if rollout.has_opened else None
    if rollout.state is not RolloutState.RUNNING:
        return None if kept_look is None else max(kept_look, now)
    ends = [s.soak_ends_at for s in rollout.stages if s.state is StageState.SOAKING and s.soak_ends_at]
    looks = [*ends, *([rollout.deadline_at] if rollout.deadline_at else [])]
    looks = [look for look in looks if look > now]
    if rollout.opening_stage or rollout.is_retrying or rollout.held_until:
        pace = rollout.conditions.pacing.look_at(
            confirmed=rollout.confirmed, in_flight=rollout.in_flight, since=rollout.paced_at or now, now=now
        )
        begins = now if rollout.opening_stage or rollout.is_retrying else rollout.held_until or now
        looks += [max(pace, begins)] if pace is not None else []
    looks += [] if kept_look is None else [max(kept_look, now)]
    return min(looks, default=None)


def _on_the_clock(rollout: Rollout, now: datetime) -> Rollout:
    """Return the rollout with a pace that a clock which went back does not stop."""
    if rollout.paced_at is None:
        return rollout
    since = rollout.conditions.pacing.corrected(rollout.paced_at, confirmed=rollout.confirmed, now=now)
    return rollout if since == rollout.paced_at else replace(rollout, paced_at=since)


def _halted(rollout: Rollout, verdict: Verdict) -> Rollout:
    if verdict.stage_index is not None:
        stage = rollout.stages[verdict.stage_index]
        failed = replace(stage, state=StageState.FAILED, reason=verdict.reason, soak_ends_at=None)
        rollout = rollout.with_stage(failed)
    halted = replace(rollout, state=RolloutState.HALTED, halted_reason=verdict.reason, question="")
    return halted.decided(verdict)


def _advanced(rollout: Rollout, index: int, now: datetime) -> Rollout:
    """Move one stage as far as it goes now, after the stages before it."""
    stage = rollout.stages[index]
    if stage.state is StageState.PASSED:
        return rollout
    if stage.state is StageState.WAITING and (first := _first_state(rollout, index)) is not None:
        alike = [before for before in rollout.stages[:index] if before.where == stage.where]
        walked = stage.walked if stage.is_open else _all_in(alike)
        stage = replace(stage, state=first, walked=walked, reason=f"opened {now:%FT%TZ}")
        rollout = replace(rollout, resumed_at=now) if rollout.is_released else rollout
        rollout = rollout.with_stage(stage).decided(Verdict(Decision.OPENED, stage.reason, index))
    if stage.state is StageState.SHADOWING and (promoted := _promotion(rollout, stage)) is not None:
        rollout = rollout.promoted(promoted, now)
        stage = rollout.stages[index]
    if stage.state is StageState.SOAKING and not _has_soaked(stage, now):
        return rollout
    shown = _what_it_shows(rollout, stage)
    if shown is not None and stage.state is StageState.RUNNING:
        soak = rollout.conditions.soak if stage.soak is None else stage.soak
        ends = now + soak if stage.counts.size else now  # nobody to watch: an empty stage does not soak
        stage = replace(
            stage, state=StageState.SOAKING, soak_ends_at=ends, reason=f"{shown.reason}; soaks to {ends:%FT%TZ}"
        )
        rollout = rollout.with_stage(stage).decided(replace(shown, reason=stage.reason))
    if shown is not None and _has_soaked(stage, now):
        stage = replace(stage, state=StageState.PASSED, reason=f"{shown.reason}; passed {now:%FT%TZ}")
        passed = replace(shown, decision=Decision.PASSED, reason=stage.reason)
        rollout = rollout.with_stage(stage).decided(passed)
    return rollout


def _all_in(stages: Sequence[Stage]) -> int:
    """Return up to which position every device is in a stage; one by count leaves devices that join to the next."""
    return next((stage.threshold for stage in reversed(stages) if stage.cut and not stage.cut.is_capped), NO_POSITION)


def _first_state(rollout: Rollout, index: int) -> StageState | None:
    """Return what a stage begins with if it may open, or None; fetching harms nobody, so it asks for no evidence."""
    before = rollout.stages[index - 1] if index else None
    if rollout.only_downloads:
        return StageState.DOWNLOADING if before is None or before.is_open else None
    if before is not None and before.state is not StageState.PASSED:
        return None
    return StageState.SHADOWING if rollout.conditions.shadow is not None and before is None else StageState.RUNNING


def _halt_in_shadow(rollout: Rollout) -> Verdict | None:
    gate, stage = rollout.conditions.shadow, rollout.stages[0]
    return gate.halt(stage.shown) if gate is not None and stage.state is StageState.SHADOWING else None


def _promotion(rollout: Rollout, stage: Stage) -> Verdict | None:
    gate = rollout.conditions.shadow
    return None if gate is None else gate.promotes(stage.shown)


def _what_it_shows(rollout: Rollout, stage: Stage) -> Verdict | None:
    """Return why a stage may pass after its soak, or None."""
    if stage.state not in {StageState.RUNNING, StageState.SOAKING} or not (stage.is_open or stage.is_approved):
        return None
    opened = rollout.opened[: stage.index + 1]
    if stage.is_approved:
        figures = rollout.conditions.policy.figures(opened, rollout.kept)
        return Verdict(Decision.SHOWN, f"{result(stage.shown)}; approved by a person", stage.index, APPROVAL, figures)
    is_last = stage.index == len(rollout.stages) - 1
    if stage.counts.cancelled and not stage.counts.size and not is_last:
        return None
    return rollout.conditions.policy.passes(opened, rollout.kept)


def _has_soaked(stage: Stage, now: datetime) -> bool:
    return stage.state is StageState.SOAKING and stage.soak_ends_at is not None and now >= stage.soak_ends_at


def _is_stuck(rollout: Rollout, stage: Stage) -> bool:
    """Whether a stage has every result that it will have, and neither halts nor passes."""
    if stage.state is StageState.SHADOWING:
        return stage.is_open and has_compared(stage.counts) and _promotion(rollout, stage) is None
    is_watched = stage.state in {StageState.RUNNING, StageState.SOAKING}
    return is_watched and stage.is_open and not stage.counts.unresolved and _what_it_shows(rollout, stage) is None


def _asking(rollout: Rollout, now: datetime) -> Rollout:
    """Pause and ask a person, where neither evidence nor time will decide."""
    stuck = next((stage for stage in rollout.stages if _is_stuck(rollout, stage)), None)
    if stuck is not None and rollout.is_retrying:
        return rollout
    if stuck is not None:
        is_shadow = stuck.state is StageState.SHADOWING
        said = agreement(stuck.counts) if is_shadow else result(stuck.shown)
        question = f"stage {stuck.index + 1}: {said} and no result outstanding, which neither halts nor passes"
        rollout = rollout.with_stage(replace(stuck, reason=question))
    elif rollout.deadline_at is not None and rollout.deadline_at <= now:
        question = f"deadline {rollout.deadline_at:%FT%TZ}: expected the rollout to be over, found it running"
    else:
        return rollout
    asked = Verdict(Decision.ASKED, question, stuck.index if stuck else None, "", rollout.figures)
    return replace(rollout, state=RolloutState.PAUSED, question=question).decided(asked)


def _finished(rollout: Rollout, now: datetime) -> Rollout:
    passed = all(stage.state is StageState.PASSED and stage.is_open for stage in rollout.stages)
    if rollout.state is not RolloutState.RUNNING or not passed or rollout.unresolved or rollout.is_retrying:
        return rollout
    if not any(stage.counts.size for stage in rollout.stages):
        gone = sum(stage.counts.cancelled for stage in rollout.stages)
        left = f"nobody is left to have it: {gone} devices superseded by a later rollout, moved or shut out"
        ended = replace(rollout, state=RolloutState.ABORTED, deadline_at=None)
        return ended.decided(Verdict(Decision.ENDED_EMPTY, f"{left}; ended {now:%FT%TZ}"))
    finished = replace(rollout, state=RolloutState.FINISHED, deadline_at=None)
    return finished.decided(Verdict(Decision.FINISHED, f"{rollout.confirmed} devices confirmed; ended {now:%FT%TZ}"))
