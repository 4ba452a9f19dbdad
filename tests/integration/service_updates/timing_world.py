"""What tests of windows, budgets and deferral do with a world: plans, attributes, devices that poll and ask."""

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta

from protocol.messages import ActionReport, ActionState
from protocol.plan import Deferral, Disruption, EvidenceGates, Pace, Plan, PlanStage, Window
from service.application.events import Event, EventType
from service.application.rollouts import NewRollout, RolloutView
from service.domain.action import Action
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld

NIGHT = Window(start=time(2), end=time(5))
NOON = time(12)


def plan(
    *windows: Window,
    disruption: Disruption | None = None,
    deferral: Deferral | None = None,
    forced: bool = False,
    pace: Pace | None = None,
    device_timeout: timedelta = timedelta(days=1),
) -> Plan:
    """Return a plan of one stage."""
    return Plan(
        stages=(PlanStage(percent=100),),
        pace=pace or Pace(),
        gates=EvidenceGates(),
        maintenance=windows,
        disruption=disruption,
        deferral=deferral,
        forced=forced,
        device_timeout=device_timeout,
    )


def set_clock(world: UpdateWorld, at: time) -> datetime:
    """Move the clock on to the next time of day, UTC; return it."""
    now = world.clock.now()
    following = datetime.combine(now.date(), at, tzinfo=UTC)
    world.clock.time = following if following >= now else following + timedelta(days=1)
    return world.clock.time


async def give(world: UpdateWorld, device_id: str, attributes: Mapping[str, str]) -> None:
    """Give a device attributes, with the event that tells of it."""
    async with world.unit_of_work() as work:
        await work.attributes.put({device_id: attributes})
        work.record(Event(EventType.DEVICE, device_id, "attributes", world.clock.now()))
        await work.commit()


async def begun(world: UpdateWorld, wanted: Plan, release: str = "timed") -> RolloutView:
    """Start a rollout of a new release and give its devices their actions."""
    await world.release(release)
    view = await world.rollouts.create(RELEASER, NewRollout(release, "Production", None, wanted), start_now=True)
    await world.tick()
    return view


async def part_of(world: UpdateWorld, view: RolloutView, device_id: str) -> Action:
    """Return a device's action."""
    return next(each.action for each in await world.actions(view) if each.action.device_id == device_id)


def is_told(world: UpdateWorld, device_id: str) -> bool:
    """Say whether a poll of the device would be answered with an action."""
    return world.pending.waiting(device_id) is not None


async def ask(world: UpdateWorld, device_id: str) -> None:
    """Let a device ask the Director, and everybody hear of what came of it."""
    await world.director.timestamp(device_id)
    await world.tick()


async def put_off(world: UpdateWorld, action: Action, *, seconds: float, sequence: int) -> None:
    """Let a device's user put its update off."""
    report = ActionReport(
        action_id=action.action_id, sequence=sequence, state=ActionState.SCHEDULED, defer_seconds=seconds
    )
    await world.reports.report(action.device_id, report)
