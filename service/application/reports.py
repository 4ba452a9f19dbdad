"""What devices say of their actions; what they sign of what they run is `service.application.manifests`."""

from dataclasses import replace
from datetime import datetime

from protocol.messages import ActionReport, ActionState, Cause
from service.application.clock import Clock
from service.application.rollout_changes import store_actions, store_rollout
from service.application.security_events import refused
from service.application.transactions import tried_again
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import StoredRollout
from service.domain.action import Action, Bucket, UnknownActionError, apply_report
from service.domain.conditions import Conditions
from service.domain.errors import ConflictError
from service.domain.holding import put_off
from service.domain.release import Release


class ReportOutOfTurnError(ConflictError):
    """A report of work on an action that waits in line behind the one that its device works on."""


class Reports:
    """Takes reports."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._releases: dict[str, Release] = {}  # by id

    @tried_again
    async def report(self, device_id: str, report: ActionReport) -> None:
        """Take a device's report; twice, late or out of order, it changes nothing.

        Args:
            device_id: of the certificate, not of the report.
            report: its action must be the device's.

        Raises:
            UnknownActionError: there is no such action of this device.
            InvalidReportError: a state that only the service sets.
            DeferralRefusedError: it puts off what may not be put off.
            ReportOutOfTurnError: the device works on another action.
        """
        now = self._clock.now()
        async with self._unit_of_work() as work:
            behind = await _lock_next(work, device_id, report) if report.state.is_final else None
            stored, action = await _part_of(work, device_id, report.action_id)
            release = await self._release(work, stored.rollout.release_id)
            conditions, timeout = stored.rollout.conditions, stored.rollout.conditions.action_timeout
            if report.defer_seconds is None:
                after = _reported(action, report, release, conditions, now=now)
            else:
                after = put_off(action, report, conditions.timing, now=now, timeout=timeout)
            await _check_turn(work, action, after)
            is_newest = report.attempt == action.attempt and report.sequence > action.sequence
            if report.state.is_final and is_newest:
                await work.installed.put(device_id, report.digests, at=now)
            if after != action:
                rollout = await store_actions(work, stored.rollout, [(action, after)], now=now)
                await store_rollout(work, stored, rollout, now=now)
                await _follow_up(work, after, behind, now=now)
                if after.state is ActionState.FAILED and (report.attack or after.cause is Cause.VERIFY):
                    work.record(refused(after, report, release=release.name, now=now))
            await work.commit()

    async def _release(self, work: UnitOfWork, release_id: str) -> Release:
        # A release never changes, so it is read once.
        if release_id not in self._releases:
            self._releases[release_id] = await work.releases.get(release_id)
        return self._releases[release_id]


def _reported(
    action: Action, report: ActionReport, release: Release, conditions: Conditions, *, now: datetime
) -> Action:
    """Return the action after a report; a device that compares models has the time for it, too."""
    timeout, gate = conditions.action_timeout, conditions.shadow
    if gate is not None and report.state is ActionState.SHADOWING and report.shadow is None:
        timeout += gate.longest
    tolerated = 0.0 if gate is None else gate.tolerated
    return apply_report(action, report, release.digests, now=now, timeout=timeout, tolerated=tolerated)


async def _part_of(work: UnitOfWork, device_id: str, action_id: str) -> tuple[StoredRollout, Action]:
    """Return a device's action and its rollout, both locked."""
    stored = await work.rollouts.of_action(action_id)
    action = None if stored is None else await work.actions.get(action_id, lock=True)
    if stored is None or action is None or action.device_id != device_id:
        raise UnknownActionError(f"action: expected one of this device, found none of id {action_id}")
    return stored, action


async def _check_turn(work: UnitOfWork, before: Action, after: Action) -> None:
    if before.bucket is not Bucket.SCHEDULED or after.bucket is not Bucket.IN_PROGRESS:
        return
    busy = [other.action_id for other in await work.actions.queue(after.device_id) if other.bucket is after.bucket]
    if busy:
        raise ReportOutOfTurnError(f"report: expected one of action {busy[0]}, found one of {after.action_id}, in line")


async def _lock_next(work: UnitOfWork, device_id: str, report: ActionReport) -> str | None:
    """Return the next action in line behind one that ends, its rollout locked together with that one's."""
    queue = await work.actions.queue(device_id)
    ended = [action for action in queue if action.action_id == report.action_id]
    scheduled = (action for action in queue if action.state is ActionState.SCHEDULED and not action.is_held)
    behind = next((action for action in scheduled if action not in ended), None)
    if not ended or behind is None:
        return None
    await work.rollouts.lock({ended[0].rollout_id, behind.rollout_id})
    return behind.action_id


async def _follow_up(work: UnitOfWork, action: Action, behind: str | None, *, now: datetime) -> None:
    """Give the next action in line its whole time."""
    if behind is None or not action.state.is_final:
        return
    # Another process may have changed it since it was found.
    other = await work.actions.get(behind, lock=True)
    if other.state is ActionState.SCHEDULED:
        await work.actions.save([replace(other, progressed_at=now)])
