"""The virtual operator: starts the scenario's rollouts by the service's use cases, and sees them end.

Releases are in force from the beginning, because nobody is there to sign them. A rollout begins at its time, yet not
before the fleet has had time to attest, and not while the service is down.
"""

from collections.abc import Mapping

from protocol.plan import Plan, PlanStage, ThresholdGates
from protocol.scenario.rollouts import VirtualRollout
from service.application.events import StoredEvent
from service.application.rollout_members import EmptyGroupError
from service.application.rollouts import NewRollout, RolloutView
from service.application.update_repositories import StoredRollout
from service.domain.rollout import RolloutState
from service.domain.stage import StageState
from simulation.devices.device import START_SPREAD_SECONDS
from simulation.driving import drive
from simulation.scheduler import NEVER
from simulation.setup import OPERATOR
from simulation.world import World

AGAIN_SECONDS = 30.0  # after a start that was not possible
LOOK_SECONDS = 60.0  # between two looks whether everything has ended


class VirtualOperator:
    """Starts rollouts, and stops the run when all have ended.

    Args:
        world: prepared.

    Attributes:
        started: ids of the rollouts, with the scenario's word for each.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.started: dict[str, VirtualRollout] = {}
        world.on_rollout(self._hear)
        for declared in world.scenario.rollouts:
            due = max(declared.at.total_seconds(), START_SPREAD_SECONDS)
            world.scheduler.call(lambda now, it=declared: self._start(it, now), due)  # type: ignore[misc]  # bound now
        if world.scenario.rollouts and world.scenario.length is None:
            world.scheduler.call(self._look, LOOK_SECONDS)

    def rollouts(self) -> Mapping[str, StoredRollout]:
        """Return the rollouts as they stand, by id."""
        return {rollout_id: drive(self._read(rollout_id)) for rollout_id in self.started}

    async def _read(self, rollout_id: str) -> StoredRollout:
        async with self._world.database(read_only=True) as work:
            return await work.rollouts.get(rollout_id)

    def _start(self, declared: VirtualRollout, now: float) -> float:
        service = self._world.service
        if service is None:
            return now + AGAIN_SECONDS
        try:
            view: RolloutView = drive(service.rollouts.create(OPERATOR, _new(declared), start_now=True))
        except EmptyGroupError:
            return now + AGAIN_SECONDS
        self.started[view.stored.rollout.rollout_id] = declared
        if declared.installs_after is not None:
            rollout_id = view.stored.rollout.rollout_id
            due = now + declared.installs_after.total_seconds()
            self._world.scheduler.call(lambda later: self._install(rollout_id, later), due)
        return NEVER

    def _install(self, rollout_id: str, now: float) -> float:
        """Have devices install what they were told to download, unless the rollout is over."""
        service, rollout = self._world.service, drive(self._read(rollout_id)).rollout
        if rollout.state.is_over:
            return NEVER
        if service is None or rollout.state is not RolloutState.RUNNING:
            return now + AGAIN_SECONDS
        drive(service.rollouts.install(OPERATOR, rollout_id))
        return NEVER

    def _hear(self, stored: StoredEvent) -> None:
        found = drive(self._read(stored.event.subject_id)).rollout
        opened = [stage.index + 1 for stage in found.stages if stage.state is not StageState.WAITING]
        declared = self.started.get(found.rollout_id)
        self._world.record.emit(
            "rollout",
            rollout=found.rollout_id if declared is None else declared.release,
            rollout_id=found.rollout_id,
            state=str(found.state),
            stage=max(opened, default=0),
            detail=found.halted_reason,
            exposed=sum(stage.counts.exposed for stage in found.stages),
            succeeded=sum(stage.counts.succeeded for stage in found.stages),
            failed=sum(stage.counts.failed for stage in found.stages),
        )

    def _look(self, now: float) -> float:
        rollouts = self.rollouts()
        has_begun = len(rollouts) == len(self._world.scenario.rollouts)
        if has_begun and all(_has_ended(stored) for stored in rollouts.values()):
            self._world.scheduler.stop()
            return NEVER
        return now + LOOK_SECONDS


def _has_ended(stored: StoredRollout) -> bool:
    is_over = stored.rollout.state in {RolloutState.FINISHED, RolloutState.HALTED, RolloutState.ABORTED}
    return is_over and not stored.rollout.unresolved


def _new(declared: VirtualRollout) -> NewRollout:
    """Return the plan of a declared rollout."""
    plan = declared.plan or Plan(
        stages=tuple(PlanStage(percent=stage.percent, soak=stage.soak) for stage in declared.stages),
        gates=ThresholdGates(
            success_percent=declared.success_percent,
            error_percent=declared.error_percent,
            min_reports=declared.min_reports,
        ),
        device_timeout=declared.action_timeout,
    )
    return NewRollout(declared.release, declared.group, declared.product, plan)
