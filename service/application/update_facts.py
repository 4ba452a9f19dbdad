"""What the device half asks of the update half: rollout facts of a device, and reference values."""

from collections.abc import Collection, Mapping, Sequence

from protocol.messages import ActionState
from service.application.rollout_facts import DeviceRolloutFacts
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import StoredRollout
from service.domain.action import Action
from service.domain.attestation import ReferenceValue
from service.domain.membership import position_of
from service.domain.rollout import RolloutState


class UpdateFacts:
    """Implements `RolloutFacts` and `ReferenceValues` on the control database."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def find(self, digests: Collection[str]) -> Mapping[str, ReferenceValue]:
        """See `ReferenceValues.find`."""
        async with self._unit_of_work(read_only=True) as work:
            images = await work.metadata.images_of(digests)
            releases = await work.releases.newest_with(digests)
        return {
            digest: ReferenceValue(
                digest=digest,
                name=image.custom.name,
                slot_kinds=frozenset({image.custom.slot_kind}),
                hardware_ids=frozenset(image.custom.hardware_ids),
                release=releases.get(digest, ""),
            )
            for digest, image in images.items()
        }

    async def for_device(self, device_id: str, *, group_id: str) -> DeviceRolloutFacts:
        """See `RolloutFacts.for_device`."""
        async with self._unit_of_work(read_only=True) as work:
            newest = await work.actions.newest(device_id)
            queue = await work.actions.queue(device_id)
            rollouts = [await work.rollouts.get(action.rollout_id) for action in queue]
            current = next((a for a, s in zip(queue, rollouts, strict=True) if s.rollout.offers(a)), None)
            release = None if current is None else await _release_name(work, current)
            reasons = [] if current else await _reasons(work, device_id, group_id, newest)
        return DeviceRolloutFacts(
            action_id=None if current is None else current.action_id,
            release=release,
            action_state=None if newest is None else str(newest.state),
            updating=current is not None,
            reasons=reasons,
        )

    async def installed(self, device_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """See `RolloutFacts.installed`."""
        async with self._unit_of_work(read_only=True) as work:
            found = await work.installed.of(device_ids)
        return {
            device_id: {str(slot): digest for slot, digest in images.items()} for device_id, images in found.items()
        }

    async def counts(self) -> dict[str, int]:
        """See `RolloutFacts.counts`."""
        async with self._unit_of_work(read_only=True) as work:
            states = await work.rollouts.counts()
            releases = await work.releases.count()
        return {
            "rollouts_running": states.get(RolloutState.RUNNING, 0),
            "rollouts_halted": states.get(RolloutState.HALTED, 0),
            "releases": releases,
        }


async def _release_name(work: UnitOfWork, action: Action) -> str:
    stored = await work.rollouts.get(action.rollout_id)
    return (await work.releases.get(stored.rollout.release_id)).name


async def _reasons(work: UnitOfWork, device_id: str, group_id: str, newest: Action | None) -> list[str]:
    reasons = [] if newest is None else await _reasons_of(work, newest)
    known = None if newest is None else newest.rollout_id
    open_rollouts = [stored for stored in await work.rollouts.of_group(group_id) if stored.rollout.rollout_id != known]
    reasons += [_waiting_reason(stored, device_id) for stored in open_rollouts]
    return reasons or ["no rollout for the device's group"]


async def _reasons_of(work: UnitOfWork, action: Action) -> list[str]:
    stored = await work.rollouts.get(action.rollout_id)
    name = await _release_name(work, action)
    if action.state is ActionState.CONFIRMED:
        return [f"release {name} is confirmed"]
    if action.state.is_final:
        cause = f" ({action.cause})" if action.cause else ""
        return [f"release {name}: action {action.state}{cause}: {action.detail}"]
    why = f": {stored.rollout.halted_reason}" if stored.rollout.halted_reason else ""
    return [f"release {name}: rollout {stored.rollout.state}{why}"]


def _waiting_reason(stored: StoredRollout, device_id: str) -> str:
    rollout = stored.rollout
    if rollout.state is RolloutState.DRAFT:
        return f"rollout {rollout.rollout_id} is a draft"
    stage = rollout.stage_at(position_of(rollout.rollout_id, device_id))
    if stage is None:
        return f"rollout {rollout.rollout_id}: its stages leave the device out"
    return f"rollout {rollout.rollout_id}: waiting for stage {stage.index + 1}, which is {stage.state}"
