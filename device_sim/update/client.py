"""The update client: takes one action from the Director's word to its last report.

Order of what counts: the last state is kept before it is sent, an image is confirmed before its action is, and a
restart at any point takes the action up again, unless the service has taken it that the action is put off. A device
with the AppDevelopment capability belongs to its developer: as on Azure Sphere, it takes nothing over the air. Images
of a release are installed one after the other, because they share one spare: if a later one fails, the earlier ones
stay, and the report's digests say so. Whatever goes wrong ends the action with a report, so that the
next one can begin. An action may be ordered to wait: with the first image of its release in the spare, verified, or
with a model in shadow; then `run` ends, and is called again when the order changes. Nobody is asked to put that off.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from device_sim.errors import (
    BootStoppedError,
    DeviceSimError,
    IncomparableModelError,
    PowerCutError,
    SpareContentError,
)
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
from device_sim.update.errors import (
    BootRefusedError,
    DevelopmentDeviceError,
    ShadowRefusedError,
    SlowTargetError,
    TargetRefusedError,
    UpdateError,
)
from device_sim.update.installer import NOW, Installer, TrialFailedError
from device_sim.update.progress import Deferral, Progress, Refusal
from device_sim.update.uptane import Floors, ImageTarget, Instruction
from protocol.geometry import ImageKind, Slot
from protocol.messages import ActionState, Attack, Cause
from protocol.shadow import ShadowTask
from protocol.updates import Order

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
            self._let_go()
            return
        if instruction.action_id is not None and not self.progress.begin(
            instruction.action_id, attempt=instruction.attempt
        ):
            return
        missing = [target for target in instruction.targets if self.installer.lacks(target)]
        if missing and instruction.order is not Order.INSTALL:
            yield from self._hold(instruction, missing)
            return
        if (yield from self._is_put_off()):
            return
        self.machine.end_shadow()
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

    def _let_go(self) -> None:
        """Free the spare of an image that was to wait in it, for an action that was taken back."""
        if self.progress.has_held:
            self.machine.end_shadow()
            self.machine.spare_drop()
            self.progress.forget()

    def _hold(self, instruction: Instruction, missing: Sequence[ImageTarget]) -> Iterator[float]:
        """Fetch the first image that is missing, for which there is room, and do with it what the order says."""
        target = missing[0]
        yield from self.installer.keep(target, self.transport())
        if instruction.shadow is not None:
            self._shadow(target, instruction.shadow, alone=len(instruction.targets) == 1)
        else:
            self.machine.end_shadow()
            others = f"; {len(missing) - 1} more when it is installed" if len(missing) > 1 else ""
            self.progress.report(ActionState.DOWNLOADED, detail=f"{target.custom.name}: verified{others}")
        self.progress.hold(instruction.order)

    def _shadow(self, target: ImageTarget, task: ShadowTask, *, alone: bool) -> None:
        running = self.machine.shadow
        if self.progress.has_compared or (running is not None and running.digest == target.sha256):
            return
        if not alone or target.slot.kind is not ImageKind.MODEL:
            raise ShadowRefusedError(f"{target.name}: expected a model that comes alone, found another release")
        try:
            self.machine.begin_shadow(target.slot, task)
        except SpareContentError as error:
            raise TargetRefusedError(str(error)) from error
        except BootStoppedError as error:
            raise BootRefusedError(str(error)) from error
        except IncomparableModelError as error:
            raise ShadowRefusedError(str(error)) from error
        self.progress.report(ActionState.SHADOWING, detail=f"{target.custom.name}: to compare {task.frames} frames")

    def _check(self) -> Instruction:
        floors = Floors(security=self.machine.rot.fuse, release=self.installer.release_floor)
        now, installed = self.machine.clock.now(), self.machine.installed()
        try:
            return self.uptane.check(self.transport(), now, floors=floors, installed=installed)
        except UnexpectedResponseError as error:  # a proof or a file that is not there yet: the service hears why
            self.progress.report(ActionState.DOWNLOADING, detail=str(error))
            raise
