"""What operators do to one device and may take two persons: block, unblock, decommission, clear a suspicion."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from service.application.approvals import Arguments, Done, ExecutableAction, Subject
from service.application.clock import Clock
from service.application.device_changes import store_device
from service.application.revocation import check_not_revoked
from service.application.standing import Standings
from service.application.unit_of_work import UnitOfWork
from service.domain.device import Device
from service.domain.errors import ConflictError
from service.domain.operator import Actor, Role

BLOCK = "device.block"
UNBLOCK = "device.unblock"
DECOMMISSION = "device.decommission"
CLEAR_CLONE = "device.clear-clone"

Permit = Callable[[UnitOfWork, Device], Awaitable[None]]
Transition = Callable[[Device, str, datetime], Device]  # device, reason, now → device


class NothingToDoError(ConflictError):
    """The device is already as the request would make it."""


@dataclass(frozen=True, slots=True)
class DeviceAction:
    """A change of one device; implements `ExecutableAction`.

    Attributes:
        change: what the event and the audit log say has happened.
        transition: what becomes of the device.
        clears_suspicion: whether the suspicion of a clone is written, too.
        permit: raises if the device may not be changed so, for what is not in its row.
    """

    name: str
    role: Role
    change: str
    transition: Transition
    standings: Standings
    clock: Clock
    clears_suspicion: bool = False
    permit: Permit | None = None

    async def find(self, work: UnitOfWork, subject_id: str) -> Subject:
        """See `ExecutableAction.find`."""
        device = await work.devices.get(subject_id)
        return Subject(device.device_id, device.version)

    async def check(self, work: UnitOfWork, subject_id: str, arguments: Arguments) -> None:
        """See `ExecutableAction.check`.

        Raises:
            FinalStateError: the device was moved or decommissioned.
            NothingToDoError: it is already so.
        """
        device = await work.devices.get(subject_id)
        if self.permit is not None:
            await self.permit(work, device)
        if self.transition(device, _reason(arguments), self.clock.now()) == device:
            raise NothingToDoError(f"{self.name}: expected a device that it changes, found it {device.state}")

    async def execute(self, work: UnitOfWork, actor: Actor, subject_id: str, arguments: Arguments) -> Done:
        """See `ExecutableAction.execute`; done again, it changes nothing.

        Raises:
            FinalStateError: the device was moved or decommissioned.
        """
        before, now, reason = await work.devices.get(subject_id), self.clock.now(), _reason(arguments)
        if self.permit is not None:
            await self.permit(work, before)
        after = self.transition(before, reason, now)
        facts = {"reason": reason} if reason else {}
        if not await store_device(work, actor, before, after, change=self.change, at=now, facts=facts):
            return Done()
        if self.clears_suspicion:
            await work.devices.save_suspicion(after)
        return Done(lambda sequence: self.standings.change(after.device_id, after.state, sequence=sequence))


def device_actions(standings: Standings, clock: Clock) -> Sequence[ExecutableAction]:
    """Return the actions to register."""

    def action(
        name: str,
        role: Role,
        change: str,
        *,
        transition: Transition,
        clears: bool = False,
        permit: Permit | None = None,
    ) -> DeviceAction:
        return DeviceAction(name, role, change, transition, standings, clock, clears_suspicion=clears, permit=permit)

    return (
        action(BLOCK, Role.OPERATOR, "blocked", transition=lambda device, reason, now: device.block(reason, now)),
        action(
            UNBLOCK,
            Role.OPERATOR,
            "unblocked",
            transition=lambda device, _reason, _now: device.unblock(),
            permit=check_not_revoked,
        ),
        action(
            DECOMMISSION, Role.ADMIN, "decommissioned", transition=lambda device, _reason, now: device.decommission(now)
        ),
        action(
            CLEAR_CLONE,
            Role.OPERATOR,
            "clone-cleared",
            transition=lambda device, _reason, _now: device.clear_suspicion(),
            clears=True,
        ),
    )


def _reason(arguments: Arguments) -> str:
    return str(arguments.get("reason", ""))
