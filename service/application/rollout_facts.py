"""The port through which the device half learns what rollouts mean for one device, to explain and to count."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class DeviceRolloutFacts:
    """What rollouts have to do with one device.

    Attributes:
        action_id: the action in progress, or None.
        release: name of the release that the action brings, or None.
        action_state: `protocol.messages.ActionState` value of the newest action of the device, or None.
        updating: whether an action is in progress now.
        reasons: why nothing is in progress, in an operator's words: no rollout for the group, rollout paused or
            halted (and why), waiting for its stage, action timed out or reverted (and the cause). Empty if updating.
    """

    action_id: str | None
    release: str | None
    action_state: str | None
    updating: bool
    reasons: Sequence[str]


class RolloutFacts(Protocol):
    """Facts about rollouts; cheap, proportional to the device's own actions."""

    async def for_device(self, device_id: str, *, group_id: str) -> DeviceRolloutFacts:
        """Return what rollouts mean for one device of a group."""

    async def installed(self, device_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return, per device, slot → SHA-256 of the package that its last confirmed report or manifest names."""

    async def counts(self) -> dict[str, int]:
        """Return `rollouts_running`, `rollouts_halted`, `releases` for the fleet summary."""
