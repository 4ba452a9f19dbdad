"""Rollouts and their stages in the control database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import Row, Select, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.document import canonical_json, parse_document
from protocol.plan import Plan
from service.adapters.database.update_tables import (
    actions,
    rollout_evidence,
    rollout_stages,
    rollout_verdicts,
    rollouts,
)
from service.adapters.database.upsert import upsert
from service.application.plans import all_stages, conditions_of, stages_of
from service.application.update_repositories import StoredRollout, StoredVerdict
from service.domain.conditions import Conditions
from service.domain.gates.kept import AllKept, Kept
from service.domain.membership import StageCut
from service.domain.rollout import Rollout, RolloutState, UnknownRolloutError
from service.domain.rollout_counts import StageCounts, Trace
from service.domain.stage import Stage, StageState
from service.domain.verdict import Decision, Verdict

PLANS_KEPT = 256
MAX_REASON = 500  # characters
_OPEN_STATES = (RolloutState.DRAFT, RolloutState.RUNNING, RolloutState.PAUSED)


class SqlRollouts:
    """Implements `RolloutRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, stored: StoredRollout) -> None:
        """See `RolloutRepository.add`."""
        row = {
            **_values(stored),
            "plan": canonical_json(stored.plan).decode(),
            "undoes": stored.rollout.undoes,
            "rollout_id": stored.rollout.rollout_id,
            "release_id": stored.rollout.release_id,
            "group_id": stored.rollout.group_id,
            "created_at": stored.created_at,
            "created_by": stored.created_by,
            "version": stored.version,
        }
        await self._connection.execute(insert(rollouts), row)
        await self._connection.execute(insert(rollout_stages), _stage_rows(stored))

    async def get(self, rollout_id: str, *, lock: bool = False) -> StoredRollout:
        """See `RolloutRepository.get`."""
        query = select(rollouts).where(rollouts.c.rollout_id == rollout_id)
        found = await self._load(query.with_for_update(key_share=True) if lock else query)
        if not found:
            raise UnknownRolloutError(f"rollout: expected an id in use, found {rollout_id[:60]!r}")
        return found[0]

    async def lock(self, rollout_ids: Collection[str]) -> Mapping[str, StoredRollout]:
        """See `RolloutRepository.lock`."""
        if not rollout_ids:
            return {}
        query = select(rollouts).where(rollouts.c.rollout_id.in_(rollout_ids)).order_by(rollouts.c.number.desc())
        found = await self._load(query.with_for_update(key_share=True))
        return {stored.rollout.rollout_id: stored for stored in found}

    async def save(self, stored: StoredRollout, *, before: StoredRollout) -> None:
        """See `RolloutRepository.save`."""
        changed = update(rollouts).where(rollouts.c.rollout_id == stored.rollout.rollout_id)
        await self._connection.execute(changed.values(**_values(stored), version=stored.version + 1))
        same = {stage.index for stage in stored.rollout.stages if stage == before.rollout.stages[stage.index]}
        rows = [row for row in _stage_rows(stored) if row["stage_index"] not in same]
        if rows:
            await self._connection.execute(upsert(self._connection, rollout_stages), rows)
        kept = _kept_rows(stored, before)
        if kept:
            await self._connection.execute(upsert(self._connection, rollout_evidence), kept)

    async def add_verdicts(self, rollout_id: str, verdicts: Sequence[Verdict], *, at: datetime) -> None:
        """See `RolloutRepository.add_verdicts`."""
        rows = [
            {
                "rollout_id": rollout_id,
                "decided_at": at,
                "decision": verdict.decision,
                "stage_index": verdict.stage_index,
                "gate": verdict.gate,
                "reason": verdict.reason[:MAX_REASON],
                "figures": dict(verdict.figures),
            }
            for verdict in verdicts
        ]
        await self._connection.execute(insert(rollout_verdicts), rows)

    async def verdicts(self, rollout_id: str, *, after_number: int, limit: int) -> Sequence[StoredVerdict]:
        """See `RolloutRepository.verdicts`."""
        query = select(rollout_verdicts).where(
            rollout_verdicts.c.rollout_id == rollout_id, rollout_verdicts.c.number > after_number
        )
        rows = await self._connection.execute(query.order_by(rollout_verdicts.c.number).limit(limit))
        return [_verdict(row) for row in rows]

    async def undoing(self, rollout_id: str) -> str | None:
        """See `RolloutRepository.undoing`."""
        query = select(rollouts.c.rollout_id).where(rollouts.c.undoes == rollout_id)
        return await self._connection.scalar(query.order_by(rollouts.c.number.desc()).limit(1))

    async def of_action(self, action_id: str) -> StoredRollout | None:
        """See `RolloutRepository.of_action`."""
        which = select(actions.c.rollout_id).where(actions.c.action_id == action_id).scalar_subquery()
        found = await self._load(select(rollouts).where(rollouts.c.rollout_id == which).with_for_update(key_share=True))
        return found[0] if found else None

    async def page(self, *, before_number: int | None, limit: int) -> Sequence[StoredRollout]:
        """See `RolloutRepository.page`."""
        query = select(rollouts).order_by(rollouts.c.number.desc()).limit(limit)
        if before_number is not None:
            query = query.where(rollouts.c.number < before_number)
        return await self._load(query)

    async def of_group(self, group_id: str) -> Sequence[StoredRollout]:
        """See `RolloutRepository.of_group`."""
        query = select(rollouts).where(rollouts.c.group_id == group_id, rollouts.c.state.in_(_OPEN_STATES))
        return await self._load(query.order_by(rollouts.c.number))

    async def finished(self, group_id: str, *, limit: int) -> Sequence[StoredRollout]:
        """See `RolloutRepository.finished`."""
        query = select(rollouts).where(rollouts.c.group_id == group_id, rollouts.c.state == RolloutState.FINISHED)
        return await self._load(query.order_by(rollouts.c.number.desc()).limit(limit))

    async def due(self, now: datetime, *, limit: int) -> Sequence[str]:
        """See `RolloutRepository.due`."""
        query = select(rollouts.c.rollout_id).where(rollouts.c.look_at <= now)
        return list(await self._connection.scalars(query.order_by(rollouts.c.look_at).limit(limit)))

    async def next_look(self) -> datetime | None:
        """See `RolloutRepository.next_look`."""
        looks = select(rollouts.c.look_at).where(rollouts.c.look_at.is_not(None))
        first = await self._connection.scalar(looks.order_by(rollouts.c.look_at).limit(1))
        deadlines = select(actions.c.due_at).where(actions.c.due_at.is_not(None))
        second = await self._connection.scalar(deadlines.order_by(actions.c.due_at).limit(1))
        return min((moment for moment in (first, second) if moment is not None), default=None)

    async def states(self) -> Mapping[str, tuple[RolloutState, str]]:
        """See `RolloutRepository.states`."""
        query = select(rollouts.c.rollout_id, rollouts.c.state, rollouts.c.group_id)
        rows = await self._connection.execute(query.where(rollouts.c.state.in_(_OPEN_STATES)))
        return {rollout_id: (RolloutState(state), group_id) for rollout_id, state, group_id in rows}

    async def counts(self) -> Mapping[RolloutState, int]:
        """See `RolloutRepository.counts`."""
        rows = await self._connection.execute(select(rollouts.c.state, func.count()).group_by(rollouts.c.state))
        return {RolloutState(state): count for state, count in rows}

    async def held(self) -> int:
        """See `RolloutRepository.held`."""
        joined = rollout_stages.join(rollouts, rollouts.c.rollout_id == rollout_stages.c.rollout_id)
        query = select(func.sum(rollout_stages.c.held)).select_from(joined)
        return int(await self._connection.scalar(query.where(rollouts.c.state.in_(_OPEN_STATES))) or 0)

    async def _load(self, query: Select[Any]) -> list[StoredRollout]:
        rows = (await self._connection.execute(query)).all()
        stages = select(rollout_stages).where(rollout_stages.c.rollout_id.in_([row.rollout_id for row in rows]))
        found: dict[str, list[Row[Any]]] = {row.rollout_id: [] for row in rows}
        for stage in await self._connection.execute(stages.order_by(rollout_stages.c.stage_index)):
            found[stage.rollout_id].append(stage)
        kept = await self._kept([row.rollout_id for row in rows if _parsed(row.plan)[1].policy.keeps_evidence])
        return [_stored(row, found[row.rollout_id], kept.get(row.rollout_id, {})) for row in rows]

    async def _kept(self, rollout_ids: Sequence[str]) -> Mapping[str, AllKept]:
        found: dict[str, dict[str, Kept]] = {}
        if rollout_ids:
            query = select(rollout_evidence).where(rollout_evidence.c.rollout_id.in_(rollout_ids))
            for row in await self._connection.execute(query):
                found.setdefault(row.rollout_id, {})[row.gate] = row.state
        return found


def _values(stored: StoredRollout) -> dict[str, Any]:
    return {
        "state": stored.rollout.state,
        "halted_reason": stored.rollout.halted_reason[:MAX_REASON],
        "resumed_at": stored.rollout.resumed_at,
        "question": stored.rollout.question[:MAX_REASON],
        "paced_at": stored.rollout.paced_at,
        "deadline_at": stored.rollout.deadline_at,
        "is_undone": stored.rollout.is_undone,
        "retry_cursor": stored.rollout.retry_cursor,
        "bucket_digits": stored.rollout.bucket_digits,
        "held_until": stored.rollout.held_until,
        "is_released": stored.rollout.is_released,
        "look_at": stored.look_at,
    }


@lru_cache(maxsize=PLANS_KEPT)
def _parsed(plan: str) -> tuple[Plan, Conditions, tuple[Stage, ...]]:
    """Return a stored plan as the engine takes it; rollouts are read far more often than made."""
    document = parse_document(plan.encode(), Plan)
    return document, conditions_of(document), stages_of(document)


def _stage_rows(stored: StoredRollout) -> list[dict[str, Any]]:
    return [
        {
            "rollout_id": stored.rollout.rollout_id,
            "stage_index": stage.index,
            "plan_count": plan.count,
            "plan_percent": plan.percent,
            "threshold": stage.cut and stage.cut.threshold,
            "planned": stage.cut and stage.cut.planned,
            "is_capped": stage.cut and stage.cut.is_capped,
            "is_settled": stage.cut and stage.cut.is_settled,
            "walked": stage.walked,
            "state": stage.state,
            "is_open": stage.is_open,
            "soak_ends_at": stage.soak_ends_at,
            "reason": stage.reason[:MAX_REASON],
            "is_approved": stage.is_approved,
            **_counted(stage.counts),
        }
        for stage, plan in zip(stored.rollout.stages, all_stages(stored.plan), strict=True)
    ]


def _kept_rows(stored: StoredRollout, before: StoredRollout) -> list[dict[str, Any]]:
    was, rollout = before.rollout.kept, stored.rollout
    changed = {gate: kept for gate, kept in rollout.kept.items() if kept != was.get(gate)}
    return [{"rollout_id": rollout.rollout_id, "gate": gate, "state": dict(kept)} for gate, kept in changed.items()]


def _counted(counts: StageCounts) -> dict[str, Any]:
    plain = {field.name: getattr(counts, field.name) for field in fields(counts)}
    return {**plain, "causes": {str(trace): count for trace, count in counts.causes.items()}}


def _stored(row: Row[Any], stages: Sequence[Row[Any]], kept: AllKept) -> StoredRollout:
    plan, conditions, drafts = _parsed(row.plan)
    rollout = Rollout(
        rollout_id=row.rollout_id,
        release_id=row.release_id,
        group_id=row.group_id,
        conditions=conditions,
        stages=tuple(_stage(draft, stage) for draft, stage in zip(drafts, stages, strict=True)),
        state=RolloutState(row.state),
        halted_reason=row.halted_reason,
        resumed_at=row.resumed_at,
        question=row.question,
        paced_at=row.paced_at,
        deadline_at=row.deadline_at,
        undoes=row.undoes,
        is_undone=row.is_undone,
        bucket_digits=row.bucket_digits,
        kept=kept,
        retry_cursor=row.retry_cursor,
        held_until=row.held_until,
        is_released=row.is_released,
    )
    return StoredRollout(
        rollout=rollout,
        plan=plan,
        created_at=row.created_at,
        created_by=row.created_by,
        number=row.number,
        look_at=row.look_at,
        version=row.version,
    )


def _stage(draft: Stage, row: Row[Any]) -> Stage:
    counts = {name: getattr(row, name) for name in StageCounts.__dataclass_fields__ if name != "causes"}
    return replace(
        draft,
        state=StageState(row.state),
        is_open=row.is_open,
        counts=StageCounts(**counts, causes={Trace.parse(text): count for text, count in row.causes.items()}),
        soak_ends_at=row.soak_ends_at,
        reason=row.reason,
        is_approved=row.is_approved,
        walked=row.walked,
        cut=None if row.threshold is None else StageCut(row.threshold, row.planned, row.is_capped, row.is_settled),
    )


def _verdict(row: Row[Any]) -> StoredVerdict:
    verdict = Verdict(
        decision=Decision(row.decision),
        reason=row.reason,
        stage_index=row.stage_index,
        gate=row.gate,
        figures=row.figures,
    )
    return StoredVerdict(row.number, row.decided_at, verdict)
