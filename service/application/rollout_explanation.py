"""Why a rollout stands where it stands: each decision with its figures, the devices that had failed by then, who waits.

Figures are those of the time of the decision, as they were kept. Devices are found by an index, and a device is under
all that it has failed for until now.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from protocol.messages import Cause
from service.application.health_repository import Counted, CountedKind
from service.application.missed import Missed, missed_by
from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import StoredVerdict
from service.domain.action import Action, Hold
from service.domain.rollout import Rollout

DEVICES_SHOWN = 20  # of each kind of failure
DECISIONS_SHOWN = 500


@dataclass(frozen=True, slots=True)
class Failed:
    """Devices that failed for the same causes.

    Attributes:
        devices: how many.
        first: of these, those that failed first.
    """

    causes: frozenset[Cause]
    devices: int
    first: Sequence[Action]


@dataclass(frozen=True, slots=True)
class ExplainedDecision:
    """A decision and the devices that had failed by then."""

    stored: StoredVerdict
    failed: Sequence[Failed]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Devices that wait for the same kind of thing before they may have the release.

    Attributes:
        devices: how many.
        first: of these, the first in line; their details say what they wait for.
    """

    hold: Hold
    devices: int
    first: Sequence[Action]


@dataclass(frozen=True, slots=True)
class Compared:
    """Devices that found the same of a model in shadow: it agrees, or not.

    Attributes:
        devices: how many.
        first: of these, the first that were given it; their counts say how often it agreed.
    """

    agrees: bool
    devices: int
    first: Sequence[Action]


@dataclass(frozen=True, slots=True)
class CountedDevices:
    """Devices that a gate has counted for the same thing.

    Attributes:
        devices: how many.
        first: of these, those that were counted first.
    """

    kind: CountedKind
    devices: int
    first: Sequence[Counted]


@dataclass(frozen=True, slots=True)
class RolloutExplanation:
    """What was decided, oldest first, who has failed, who waits, what was found in shadow, whom gates have counted.

    Attributes:
        missed: of a rollback, devices that it has not come to; where none could be, all who were given the release.
    """

    decisions: Sequence[ExplainedDecision]
    failed: Sequence[Failed]
    waiting: Sequence[Waiting]
    compared: Sequence[Compared]
    counted: Sequence[CountedDevices]
    missed: Missed


async def explain_rollout(work: UnitOfWork, rollout: Rollout, *, now: datetime) -> RolloutExplanation:
    """Explain a rollout.

    Args:
        work: may be read-only.
        rollout: as it was read there.
        now: UTC, aware.
    """
    rollout_id = rollout.rollout_id
    verdicts = await work.rollouts.verdicts(rollout_id, after_number=0, limit=DECISIONS_SHOWN)
    decisions = [
        ExplainedDecision(stored, await _failed(work, rollout_id, until=stored.decided_at)) for stored in verdicts
    ]
    failed, waiting = await _failed(work, rollout_id, until=now), await _waiting(work, rollout_id)
    compared, counted = await _compared(work, rollout_id), await _counted(work, rollout_id)
    missed = await missed_by(work, rollout)
    return RolloutExplanation(decisions, failed, waiting, compared, counted, missed)


async def _counted(work: UnitOfWork, rollout_id: str) -> Sequence[CountedDevices]:
    counts = await work.health.counted_kinds(rollout_id)
    by_gate = sorted(counts.items(), key=lambda item: (item[0].gate, item[0].arm, item[0].what))
    return [
        CountedDevices(kind, devices, await work.health.first_counted(rollout_id, kind, limit=DEVICES_SHOWN))
        for kind, devices in by_gate
    ]


async def _compared(work: UnitOfWork, rollout_id: str) -> Sequence[Compared]:
    """Return those that disagree first."""
    counts = await work.actions.compared(rollout_id)
    return [
        Compared(agrees, devices, await work.actions.first_compared(rollout_id, agrees=agrees, limit=DEVICES_SHOWN))
        for agrees, devices in sorted(counts.items())
    ]


async def _waiting(work: UnitOfWork, rollout_id: str) -> Sequence[Waiting]:
    counts = await work.actions.holds(rollout_id)
    return [
        Waiting(hold, devices, await work.actions.first_holding(rollout_id, hold, limit=DEVICES_SHOWN))
        for hold, devices in sorted(counts.items())
    ]


async def _failed(work: UnitOfWork, rollout_id: str, *, until: datetime) -> Sequence[Failed]:
    counts = await work.actions.failed(rollout_id, until=until)
    by_number = sorted(counts.items(), key=lambda item: (-item[1], sorted(item[0])))
    return [
        Failed(
            causes,
            devices,
            await work.actions.first_failed(rollout_id, causes, until=until, limit=DEVICES_SHOWN),
        )
        for causes, devices in by_number
    ]
