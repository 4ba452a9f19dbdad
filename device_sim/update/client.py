"""The update client: takes one action from the Director's word to its last report.

Order of what counts: the last state is kept before it is sent, an image is confirmed before its action is, and a
restart at any point takes the action up again, unless the service has taken it that the action is put off. A device
with the AppDevelopment capability belongs to its developer: as on Azure Sphere, it takes nothing over the air. Images
of a release are installed one after the other, because they share one spare: if a later one fails, the earlier ones
stay, and the report's digests say so. Whatever goes wrong ends the action with a report, so that the
next one can begin.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from device_sim.errors import DeviceSimError, PowerCutError
from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.ports import DeviceMachine
from device_sim.network.ports import (
    FalseServerError,
    HttpTransport,
    NetworkError,
    SlowRetrievalError,
    UnexpectedResponseError,
)
from device_sim.update.deferring import LETS_BEGIN, UpdateListener
from device_sim.update.download import WrongRangeError
from device_sim.update.errors import DevelopmentDeviceError, SlowTargetError, TargetRefusedError, UpdateError
from device_sim.update.installer import NOW, Installer, TrialFailedError
from device_sim.update.progress import Deferral, Progress, Refusal
from device_sim.update.uptane import Floors, Instruction
from protocol.geometry import Slot
from protocol.messages import ActionState, Attack, Cause

ANSWER_PAUSE_SECONDS = 2.0  # between two looks whether the service has answered
MAX_SLOW_ANSWERS = 3  # of one action; then slow retrieval ends it
MAX_WRONG_RANGES = 3  # the same of answers that are not what was asked for


class Verifier(Protocol):
    """Verifies what the service wants a device to run."""

    def check(
        self, transport: HttpTransport, now: datetime, *, floors: Floors, installed: Mapping[Slot, InstalledImage]
    ) -> Instruction:
        """See `UptaneClient.check`."""


@dataclass(frozen=True, slots=True)
class UpdateClient:
    """Runs actions on one machine.

    Attributes:
        machine: has booted.
        uptane: verifies.
        installer: installs.
        progress: reports.
        transport: gives the transport with the operational certificate in force.
        retry_seconds: gives the pause before the next attempt, by the number of failed ones.
        application: hears of an update before it begins, and may put it off.
    """

    machine: DeviceMachine
    uptane: Verifier
    installer: Installer
    progress: Progress
    transport: Callable[[], HttpTransport]
    retry_seconds: Callable[[int], float]
    application: UpdateListener = LETS_BEGIN

    def run(self, action_id: str, attempt: int = 1) -> Iterator[float]:
        """Run one action to its end; yields the seconds after which it wants to go on.

        Args:
            action_id: from the poll; the Director's word decides what it means.
            attempt: of the action, from 1.
        """
        if not self.progress.begin(action_id, attempt=attempt):
            return
        try:
            yield from self._persist()
        except UpdateError as error:
            refusal = Refusal(error.rule, error.attack)
            self.progress.report(ActionState.FAILED, cause=error.cause, detail=str(error), refusal=refusal)
        except TrialFailedError as error:
            self.progress.report(ActionState.REVERTED, cause=error.cause, detail=str(error))
        except PowerCutError:
            raise
        except (DeviceSimError, ValueError) as error:
            refusal = Refusal(type(error).__name__, None)
            self.progress.report(ActionState.FAILED, cause=Cause.VERIFY, detail=str(error), refusal=refusal)

    def _persist(self) -> Iterator[float]:
        failures = slow = wrong = 0
        while True:
            try:
                yield from self._attempt()
            except NetworkError as error:
                failures += 1
                if isinstance(error, FalseServerError):
                    self.progress.suspect(Refusal(type(error).__name__, Attack.EAVESDROP), str(error))
                slow += isinstance(error, SlowRetrievalError)
                if slow >= MAX_SLOW_ANSWERS:
                    raise SlowTargetError(f"{error}, {slow} times") from error
                wrong += isinstance(error, WrongRangeError)
                if wrong >= MAX_WRONG_RANGES:
                    raise TargetRefusedError(f"{error}, {wrong} times") from error
                yield error.retry_after_seconds + self.retry_seconds(failures)
            else:
                return

    def _attempt(self) -> Iterator[float]:
        if self.machine.rot.has_app_development:
            raise DevelopmentDeviceError("expected a device without the AppDevelopment capability, found one with it")
        instruction = self._check()
        yield NOW
        if not instruction.targets:
            return
        if instruction.action_id is not None and not self.progress.begin(
            instruction.action_id, attempt=instruction.attempt
        ):
            return
        if (yield from self._is_put_off()):
            return
        for target in instruction.targets:
            yield from self.installer.install(target, self.transport())
        self.progress.report(ActionState.CONFIRMED)

    def _is_put_off(self) -> Generator[float, None, bool]:
        """Ask the application, and the service whether it may; what a restart interrupted is not asked again."""
        if self.progress.deferral is Deferral.NONE and not self.progress.has_begun:
            lasts = self.application.on_update_pending(deferrals=self.progress.deferrals)
            if lasts is not None:
                self.progress.put_off(lasts)
        while self.progress.deferral is Deferral.ASKED:
            yield ANSWER_PAUSE_SECONDS
        return self.progress.deferral is Deferral.TAKEN

    def _check(self) -> Instruction:
        floors = Floors(security=self.machine.rot.fuse, release=self.installer.release_floor)
        now, installed = self.machine.clock.now(), self.machine.installed()
        try:
            return self.uptane.check(self.transport(), now, floors=floors, installed=installed)
        except UnexpectedResponseError as error:  # a proof or a file that is not there yet: the service hears why
            self.progress.report(ActionState.DOWNLOADING, detail=str(error))
            raise
