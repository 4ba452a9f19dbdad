"""Looking for devices that fell silent, in both arms of a rollout, for the gates that count it.

The cost of a look does not grow with the fleet. Of canaries the first that were given the release are looked at, of the
others those that the rollout comes to last: its order is salted, so neither are chosen. Of an arm with fewer devices
all are looked at.

Nobody is silent for as long as nobody could be heard of: after an outage of the service, and where both arms have said
nothing, devices have their whole time again, and the look that was due waits for it. Outages that come more often than
that delay it by what they took and as much (`service.domain.listening`).
"""

from dataclasses import replace
from datetime import datetime

from protocol.messages import ActionState
from service.application.health_repository import Counted
from service.application.model_health import kept_gates
from service.application.rollout_members import last_members
from service.application.unit_of_work import UnitOfWork
from service.domain.action import Action
from service.domain.gates.arms import LOOKS_FOR_SILENCE, Arm, EventGate, Tally
from service.domain.gates.kept import Kept
from service.domain.listening import Listening
from service.domain.rollout import Rollout, RolloutState

SAMPLE = 2000  # devices of an arm


async def look_for_silence(work: UnitOfWork, rollout: Rollout, *, now: datetime, listening: Listening) -> Rollout:
    """Return the rollout once the gates that are due have seen who fell silent.

    Args:
        work: the transaction, which holds the rollout's row.
        rollout: as it was read.
        now: UTC, aware.
        listening: when the service has been up to hear of devices.
    """
    if rollout.state not in {RolloutState.RUNNING, RolloutState.PAUSED} or rollout.only_downloads:
        return rollout  # who has only fetched the release does not run it
    for gate in kept_gates(rollout):
        look = gate.next_look(rollout.kept.get(gate.name, {}))
        if isinstance(gate, EventGate) and look is not None and look <= now:
            kept = await _look(work, rollout, gate, now=now, listening=listening)
            rollout = replace(rollout, kept={**rollout.kept, gate.name: kept})
    return rollout


async def _look(work: UnitOfWork, rollout: Rollout, gate: EventGate, *, now: datetime, listening: Listening) -> Kept:
    kept = rollout.kept.get(gate.name, {})
    since = gate.silence_since(kept)
    if since is None:
        return gate.silent(kept, {arm: Tally() for arm in Arm}, until=now)
    first = max(since + gate.silent_after / LOOKS_FOR_SILENCE, gate.hush_ended(kept) or since)  # an end worth a look
    until = listening.silent_since(gate.silent_after, now=now)
    if until is None or until < first:
        return gate.listening(kept, until=listening.due(first, gate.silent_after, now=now))
    heard = await _arms(work, rollout, gate)
    at_risk = {arm: {each: at for each, at in devices.items() if at > since} for arm, devices in heard.items()}
    gone = {arm: {each: at for each, at in devices.items() if at <= until} for arm, devices in at_risk.items()}
    if not all(at_risk.values()):  # there is nothing to compare with
        return gate.silent(kept, {arm: Tally() for arm in Arm}, until=until)
    if gone == at_risk:
        return gate.hushed(kept, at=now)
    if gate.is_hushed(kept):
        return gate.resumed(kept, at=now)
    await work.health.count(
        [
            Counted(rollout.rollout_id, gate.name, each, arm, "offline", _heard(at, until), now)
            for arm, devices in gone.items()
            for each, at in sorted(devices.items())
        ]
    )
    return gate.silent(kept, {arm: Tally(len(at_risk[arm]), len(gone[arm])) for arm in Arm}, until=until)


async def _arms(work: UnitOfWork, rollout: Rollout, gate: EventGate) -> dict[Arm, dict[str, datetime]]:
    """Return when sampled devices were last heard of, by arm, without those that the gate has counted."""
    first = await work.actions.page(rollout.rollout_id, after_number=0, limit=SAMPLE)
    sampled = sorted({*(each.action.device_id for each in first), *await last_members(work, rollout, fewest=SAMPLE)})
    actions = await work.actions.of_devices(rollout.rollout_id, sampled)
    counted = await work.health.counted(rollout.rollout_id, sampled)
    heard = await work.devices.last_seen(rollout.group_id, sampled)
    arms: dict[Arm, dict[str, datetime]] = {arm: {} for arm in Arm}
    for device_id, at in heard.items():
        if gate.name in counted.get(device_id, frozenset()):
            continue
        # One that was given the release only after the time that is looked at is no event: that only delays.
        action = actions.get(device_id)
        arms[Arm.CANARY if action is not None and _runs_release(action) else Arm.CONTROL][device_id] = at
    return arms


def _runs_release(action: Action) -> bool:
    """Whether a device was given the release, or had it before."""
    return action.offered or action.state is ActionState.CONFIRMED


def _heard(at: datetime, until: datetime) -> str:
    return f"expected a word after {until:%FT%TZ}, found the last one at {at:%FT%TZ}"
