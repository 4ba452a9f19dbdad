"""One image from its download to its confirmed run, or back to what ran before.

The way of an image: spare → trial on its own core, while the sibling runs on → golden vectors and live frames, or, for
the A7 application, a way back to the service → confirm, which copies home. Whatever fails before the trial leaves
the device untouched; whatever fails in it reverts. Success is a confirmed run of the new digest. Bytes that are refused
may have been spoiled on the way: they are fetched anew once, whole, before that is called an attack.

The counter of a confirmed release is a floor. Which one an image will raise is kept before it is confirmed, so that a
power cut in between leaves it to the next start.

Each step is an iterator: it yields the seconds after which it wants to go on, so that the device does its other work
between two ranges of a download or two golden vectors.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.errors import (
    BootStoppedError,
    CoreLoadError,
    CoreStoppedError,
    DeviceSimError,
    PowerCutError,
    SpareContentError,
    SpareStateError,
    WornSectorError,
)
from device_sim.hardware.ports import DeviceMachine, RealTimeCore
from device_sim.hardware.secure_storage import CONFIRMING, RELEASE_FLOOR
from device_sim.hardware.spare import SpareState
from device_sim.network.ports import HttpTransport, NetworkError
from device_sim.update.download import Verify, verify_spare
from device_sim.update.errors import BootRefusedError, NoRoomError, PackageRefusedError, TargetRefusedError
from device_sim.update.patching import Fetch
from device_sim.update.progress import Progress
from device_sim.update.uptane import ImageTarget
from protocol.document import Document
from protocol.geometry import Core, Slot
from protocol.messages import ActionState, Cause
from protocol.model import GoldenVectors, Sha256Hex
from tinyml.errors import PoolBusyError

NOW = 0.0  # seconds until an iterator wants to go on
MAX_TRIALS = 2  # the second one after a power cut
LIVE_FRAMES = 3  # that a core on trial must answer after its golden vectors
REACH_ATTEMPTS = 6  # of a new A7 application to reach the service
REACH_PAUSE_SECONDS = 2.0
BUSY_PAUSE_SECONDS = 1.0

T = TypeVar("T")


class TrialFailedError(DeviceSimError):
    """The image ran on trial and did not pass.

    Attributes:
        cause: for the action's report.
    """

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class _Confirming(Document):
    slot: Slot
    digest: Sha256Hex
    counter: int


class Installer:
    """Installs verified targets on one machine; made at every start, because it finishes what a power cut left.

    Args:
        machine: has booted.
        progress: where states are reported.
        package_keys: that may sign packages.
        look: takes a frame of a core's camera.
        reach_service: attests and asks the service anew, as after a restart of the application.
        verify: judges the whole image in the spare, as `verify_spare` does.
    """

    def __init__(
        self,
        machine: DeviceMachine,
        progress: Progress,
        *,
        package_keys: Sequence[ec.EllipticCurvePublicKey],
        look: Callable[[Core], np.ndarray],
        reach_service: Callable[[], None],
        verify: Verify = verify_spare,
    ) -> None:
        self._machine = machine
        self._progress = progress
        self._package_keys = package_keys
        self._look = look
        self._reach_service = reach_service
        self._verify = verify
        self._raise_floor()

    def release_floor(self, slot: Slot) -> int:
        """Return the counter of the last release that was confirmed in a slot, or 0."""
        return int(self._machine.storage.get(RELEASE_FLOOR + slot.value) or b"0")

    def install(self, target: ImageTarget, transport: HttpTransport) -> Iterator[float]:
        """Install one image, unless it is confirmed already.

        Raises:
            NetworkError: the service was not reached; installing anew goes on where this ended.
            UpdateError: refused before it ran.
            TrialFailedError: it ran and was reverted.
        """
        if self.lacks(target):
            yield from self._bring(target, transport)
            yield from self._trial(target)
        else:
            self._keep_release(target)
            self._raise_floor()

    def lacks(self, target: ImageTarget) -> bool:
        """Whether an image is to be installed: it is not the confirmed one of its slot."""
        installed = self._machine.installed().get(target.slot)
        return installed is None or installed.digest != target.sha256

    def keep(self, target: ImageTarget, transport: HttpTransport) -> Iterator[float]:
        """Bring one image into the spare, verified, and leave it there: what runs runs on. Raises as `install`."""
        if not (self._progress.has_held and self._is_kept(target)):
            yield from self._bring(target, transport, reports=False)

    def _is_kept(self, target: ImageTarget) -> bool:
        spare = self._machine.spare
        is_named = (spare.state, spare.slot, spare.digest) == (SpareState.FILLING, target.slot, target.sha256)
        return is_named and self._machine.spare_digest(target.length) == target.sha256

    def _bring(self, target: ImageTarget, transport: HttpTransport, *, reports: bool = True) -> Iterator[float]:
        try:
            yield from self._fetch(target, transport, reports=reports)
        except (TargetRefusedError, PackageRefusedError) as error:
            self._tell(target, f"full image anew: {error}")
            yield from self._fetch(replace(target, patch=None), transport, reports=reports)

    def _fetch(self, target: ImageTarget, transport: HttpTransport, *, reports: bool) -> Iterator[float]:
        fetch = Fetch(self._machine, transport, target, self._progress, partial(self._tell, target))
        for _ in fetch.run():
            yield NOW
        detail = f"{target.custom.name}: {fetch.received} bytes received of {target.length}"
        if reports:
            self._progress.report(ActionState.INSTALLING, detail=detail)
        self._verify(self._machine, target, package_keys=self._package_keys)

    def _tell(self, target: ImageTarget, way: str) -> None:
        detail = f"{target.custom.name}: {way}" if way else target.custom.name
        self._progress.report(ActionState.DOWNLOADING, detail=detail)

    def _keep_release(self, target: ImageTarget) -> None:
        confirming = _Confirming(slot=target.slot, digest=target.sha256, counter=target.release.counter)
        self._machine.storage.put_document(CONFIRMING, confirming)

    def _raise_floor(self) -> None:
        """Raise the floor of the slot whose image was confirmed last, if it was."""
        confirming = self._machine.storage.get_document(CONFIRMING, _Confirming)
        if confirming is None:
            return
        installed = self._machine.installed().get(confirming.slot)
        is_confirmed = installed is not None and installed.digest == confirming.digest
        if is_confirmed and self.release_floor(confirming.slot) < confirming.counter:
            floor = str(confirming.counter).encode()
            self._machine.storage.put(RELEASE_FLOOR + confirming.slot.value, floor)

    def _trial(self, target: ImageTarget) -> Iterator[float]:
        if self._progress.trials(target.sha256) >= MAX_TRIALS:
            raise TrialFailedError(Cause.BOOT, f"expected a trial to end, found it cut off {MAX_TRIALS} times")
        self._progress.count_trial(target.sha256)
        self._start(target)
        self._progress.report(ActionState.TRIAL, detail=target.custom.name)
        yield NOW
        try:
            yield from self._prove(target)
        except PowerCutError:
            raise
        except (DeviceSimError, ValueError) as error:
            self._machine.revert(target.slot, str(error))
            cause = error.cause if isinstance(error, TrialFailedError) else Cause.BOOT
            raise TrialFailedError(cause, str(error)) from error
        self._confirm(target)

    def _confirm(self, target: ImageTarget) -> None:
        try:
            self._keep_release(target)
            self._machine.confirm(target.slot)
        except PowerCutError:
            raise
        except DeviceSimError as error:
            with contextlib.suppress(SpareStateError):  # the machine has reverted already
                self._machine.revert(target.slot, str(error))
            raise TrialFailedError(Cause.FLASH, str(error)) from error
        self._raise_floor()

    def _start(self, target: ImageTarget) -> None:
        try:
            self._machine.start_trial(target.slot)
        except SpareContentError as error:
            raise TargetRefusedError(str(error)) from error
        except (BootStoppedError, CoreLoadError) as error:
            raise BootRefusedError(str(error)) from error
        except WornSectorError as error:
            raise NoRoomError(str(error)) from error

    def _prove(self, target: ImageTarget) -> Iterator[float]:
        core = self._machine.cores.get(target.slot.core)
        if core is None:
            yield from self._reach()
            return
        if target.golden is not None:
            yield from self._answer_golden(target.slot.core, target.golden)
        if core.is_running:
            yield from self._answer_frames(target.slot.core, core)

    def _answer_golden(self, core: Core, golden: GoldenVectors) -> Iterator[float]:
        for vector in golden.vectors:
            alone = GoldenVectors(component_id=golden.component_id, vectors=(vector,))
            try:
                outcome = yield from _when_free(partial(self._machine.run_golden, core, alone))
            except CoreStoppedError as error:
                raise TrialFailedError(Cause.BOOT, str(error)) from error
            yield NOW  # once the core is through with it
            if not outcome.passed:
                raise TrialFailedError(outcome.cause or Cause.GOLDEN_VECTORS, outcome.detail)

    def _answer_frames(self, name: Core, core: RealTimeCore) -> Iterator[float]:
        for _ in range(LIVE_FRAMES):
            outcome = yield from _when_free(partial(core.infer, self._look(name)))
            self._machine.time.occupy_core(name, outcome.busy_seconds)
            yield NOW
            if outcome.cause is not None:
                raise TrialFailedError(outcome.cause, outcome.error)

    def _reach(self) -> Iterator[float]:
        """Let the application on trial prove that it still leads to the service, and so to the next update."""
        failure = ""
        for _ in range(REACH_ATTEMPTS):
            try:
                self._reach_service()
            except NetworkError as error:
                failure = str(error)
                yield REACH_PAUSE_SECONDS
            except DeviceSimError as error:
                raise TrialFailedError(Cause.BOOT, f"expected to be let in, found: {error}") from error
            else:
                return
        raise TrialFailedError(Cause.BOOT, f"expected to reach the service, found: {failure}")


def _when_free(ask: Callable[[], T]) -> Generator[float, None, T]:
    """Ask the host's inference pool until it has a free worker: a busy host is no fault of the device."""
    while True:
        try:
            return ask()
        except PoolBusyError:
            yield BUSY_PAUSE_SECONDS
