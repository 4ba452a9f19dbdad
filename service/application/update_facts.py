"""What the device half asks of the update half: rollout facts of a device."""

from protocol.messages import ActionState
from service.application.rollout_facts import DeviceRolloutFacts
from service.application.rollout_members import filters_of, is_member
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import StoredRollout
from service.domain.action import Action
from service.domain.rollout import RolloutState


class UpdateFacts:
    """Implements `RolloutFacts` on the control database."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def for_device(self, device_id: str, *, group_id: str) -> DeviceRolloutFacts:
        """See `RolloutFacts.for_device`."""
        async with self._unit_of_work(read_only=True) as work:
            newest = await work.actions.newest(device_id)
            if newest is None:
                reasons = await _reasons_to_wait(work, device_id, group_id)
                return DeviceRolloutFacts(None, None, None, updating=False, reasons=reasons)
            stored = await work.rollouts.get(newest.rollout_id)
            updating = stored.rollout.offers(newest)
            release = (await work.releases.get(stored.rollout.release_id)).name
            reasons = [] if updating else [_reason(stored, newest, release)]
            if newest.state.is_final:
                reasons += await _reasons_to_wait(work, device_id, group_id, beside=newest.rollout_id)
        return DeviceRolloutFacts(
            newest.action_id,
            release,
            str(newest.state),
            updating=updating,
            reasons=reasons,
            waits=newest.detail if newest.is_held else None,
        )


async def _reasons_to_wait(work: UnitOfWork, device_id: str, group_id: str, *, beside: str = "") -> list[str]:
    found = [stored for stored in await work.rollouts.of_group(group_id) if stored.rollout.rollout_id != beside]
    if not found and not beside:
        return ["no rollout for the device's group"]
    return [await _waiting_reason(work, stored, device_id) for stored in found]


def _reason(stored: StoredRollout, action: Action, release: str) -> str:
    if action.state is ActionState.CONFIRMED:
        return f"release {release} is confirmed"
    if action.state.is_final:
        cause = f" ({action.cause})" if action.cause else ""
        return f"release {release}: action {action.state}{cause}: {action.detail}"
    if action.is_held and stored.rollout.state is RolloutState.RUNNING:
        return f"release {release} waits: {action.detail}"
    why = f": {stored.rollout.halted_reason}" if stored.rollout.halted_reason else ""
    return f"release {release}: rollout {stored.rollout.state}{why}"


async def _waiting_reason(work: UnitOfWork, stored: StoredRollout, device_id: str) -> str:
    rollout = stored.rollout
    if rollout.state is RolloutState.DRAFT:
        return f"rollout {rollout.rollout_id} is a draft"
    if not await is_member(work, rollout, device_id):
        return f"rollout {rollout.rollout_id}: is not for the device"
    stage, is_later = rollout.stage_of(rollout.order.position(device_id), await filters_of(work, rollout, device_id))
    if stage is None:
        return f"rollout {rollout.rollout_id}: its stages leave the device out"
    later = " or a later one" if is_later else ""
    return f"rollout {rollout.rollout_id}: waiting for stage {stage.index + 1}{later}, which is {stage.state}"
