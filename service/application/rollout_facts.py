"""The port through which the device half learns what rollouts mean for one device, to explain it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeviceRolloutFacts:
    """What rollouts have to do with one device.

    Attributes:
        action_id: the newest action of the device, or None.
        release: name of the release that it brings, or None.
        action_state: `protocol.messages.ActionState` value of it, or None.
        updating: whether it is in progress now.
        reasons: why nothing is in progress, in an operator's words: no rollout for the group, rollout paused or
            halted (and why), waiting for its stage, its window, its user or its place, action timed out or reverted
            (and the cause). Empty if updating.
        waits: what the action is held for, in an operator's words; None where nothing holds it.
    """

    action_id: str | None
    release: str | None
    action_state: str | None
    updating: bool
    reasons: Sequence[str]
    waits: str | None = None


class RolloutFacts(Protocol):
    """Facts about rollouts; cheap, proportional to the device's own actions and its group's rollouts."""

    async def for_device(self, device_id: str, *, group_id: str) -> DeviceRolloutFacts:
        """Return what rollouts mean for one device of a group."""
