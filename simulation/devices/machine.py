"""A virtual MT3620: what its slots hold, as states; no bytes, no keys.

Real: what is on trial, confirmed or reverted, and by which rules; fuses, counters, boot seeds; that a restart drops an
image on trial, finishes one that was confirmed and goes on with one that was being written; the sizes of slots.
Modelled: how long flash work, a trial's start, golden vectors and inferences take. Not real: flash contents, wear, the
boot chain's verification, the model's arithmetic. Faults of the scenario strike at the step that the real ones would
spoil.
"""

import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

import numpy as np

from device_sim.cores.a7 import GoldenOutcome
from device_sim.cores.device_time import DeviceTime
from device_sim.cores.intercore import traffic_seconds
from device_sim.cores.kernels import busy_seconds
from device_sim.cores.m4 import InferenceOutcome
from device_sim.errors import (
    CoreLoadError,
    CoreStoppedError,
    ImageTooLargeError,
    PowerCutError,
    SpareContentError,
    SpareStateError,
)
from device_sim.hardware.boot import BootReport, Revert
from device_sim.hardware.clock import Clock, DeviceClock
from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.ports import RealTimeCore
from device_sim.hardware.spare import Spare, SpareState
from device_sim.network.ports import SlowRetrievalError
from device_sim.runtime.inference import CoreFigures
from device_sim.update.errors import TargetRefusedError
from device_sim.update.installer import LIVE_FRAMES
from protocol.evidence import LifeCycle, SoftwareComponent
from protocol.geometry import Core, ImageKind, Slot
from protocol.identity import DeviceId
from protocol.messages import Cause
from protocol.model import GoldenVectors
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from protocol.shadow import ShadowTask
from protocol.voucher import Voucher
from simulation.admission import Shown
from simulation.devices.anchor import VirtualAnchor, VirtualStorage
from simulation.devices.faults import Faults
from simulation.devices.flash import VirtualFlash, brown_out
from simulation.devices.health import VirtualHealth
from simulation.devices.inference import Load, Strike, VirtualInference
from simulation.devices.shadow import VirtualShadow
from simulation.images import Catalogue, VirtualImage

BOOT_SEED_BYTES = 32
START_SECONDS = 1.0  # to verify, load and start an image on trial; assumed
GOLDEN_VECTORS = 8  # that a model answers; those of the catalogue stand for so many
GOLDEN_INPUT_BYTES = 96 * 96 * 3  # of each, as a person detector takes it
MODEL_SLOTS = tuple(slot for slot in Slot if slot.kind is ImageKind.MODEL)
STRIKING = (ReleaseFaultKind.SLOW, ReleaseFaultKind.DRIFT)
UNCONFIRMED = "restarted before the trial was confirmed"


class VirtualCore:
    """A real-time core: it runs no inference of its own."""

    is_running = False
    card = None
    learner = None
    latency_seconds = candidate_seconds = 0.0

    def infer_candidate(self, frame: np.ndarray) -> InferenceOutcome:
        """Refuse, as a core without a model in shadow does."""
        return self.infer(frame)

    def infer(self, frame: np.ndarray) -> InferenceOutcome:
        """Refuse, as a core without a model does."""
        del frame
        raise CoreStoppedError("virtual core: expected a model that runs, found none")


CORES: Mapping[Core, RealTimeCore] = {Core.M4_0: VirtualCore(), Core.M4_1: VirtualCore()}


class VirtualMachine:
    """One virtual device's hardware; implements `DeviceMachine`.

    Args:
        device_id: 128 hex digits.
        images: what it was made with.
        catalogue: what digests stand for.
        clock: drives the device's clock.
        rng: seeded; draws boot seeds.
        faults: that strike this device.
        flash: counts and takes time.
        voucher: names a catalog that nobody verifies.
        inference: reckons what the cores compute; None: they rest.
    """

    __slots__ = (
        "_catalogue",
        "_clock",
        "_copied",
        "_driver",
        "_faults",
        "_home",
        "_inference",
        "_is_cut",
        "_rng",
        "_struck",
        "_trial",
        "boot_seed",
        "device_id",
        "flash",
        "lifecycle",
        "rot",
        "shadow",
        "spare",
        "storage",
        "voucher",
        "written",
    )

    cores = CORES

    def __init__(
        self,
        device_id: DeviceId,
        images: Mapping[Slot, VirtualImage],
        *,
        catalogue: Catalogue,
        clock: Clock,
        rng: random.Random,
        faults: Faults,
        flash: VirtualFlash,
        voucher: Voucher,
        inference: VirtualInference | None = None,
    ) -> None:
        self.flash = flash
        self.device_id = device_id
        self.rot = VirtualAnchor()
        self.storage = VirtualStorage()
        self.voucher: Voucher | None = voucher
        self.spare = Spare()
        self.written = 0  # bytes of the spare's image
        self.boot_seed = b""
        self.lifecycle = LifeCycle.SECURED
        self._copied = 0  # flash operations of the copy home that are done
        self._is_cut = False  # whether the power failed while the spare was written
        self._home = images
        self._trial: Slot | None = None
        self.shadow: VirtualShadow | None = None
        self._catalogue = catalogue
        self._driver = clock
        self._clock = DeviceClock(clock)
        self._rng = rng
        self._faults = faults
        self._inference = inference
        self._struck: Mapping[str, Mapping[ReleaseFaultKind, tuple[Strike, ...]]] = {}  # by digests of confirmed images

    @property
    def is_bricked(self) -> bool:
        """Whether the device is silent for good."""
        return self._faults.is_bricked

    @property
    def time(self) -> DeviceTime:
        """The device's own time line."""
        return self.flash.time

    @property
    def clock(self) -> DeviceClock:
        """The device's clock."""
        return self._clock

    def copy(self, rng: random.Random) -> "VirtualMachine":
        """Return a machine with this one's identity, images and storage, as a thief of its keys would make."""
        other = VirtualMachine(
            self.device_id,
            self._home,
            catalogue=self._catalogue,
            clock=self._driver,
            rng=rng,
            faults=copy.copy(self._faults),
            flash=self.flash.copy(rng),
            voucher=_expect_voucher(self),
            inference=None if self._inference is None else self._inference.copy(),
        )
        other._struck = self._struck
        other.storage, other.lifecycle = VirtualStorage(self.storage), self.lifecycle
        other.spare, other.written, other._copied, other._is_cut = self.spare, self.written, self._copied, True
        other.rot.fuses, other.rot.counters = dict(self.rot.fuses), dict(self.rot.counters)
        return other

    def boot(self) -> BootReport:
        """Finish or undo what a power cut left behind, then boot.

        Raises:
            PowerCutError: a brown-out while a confirmed image is copied home.
        """
        self.flash.switch_on()
        if self._inference is not None:
            self._inference.switch_on()
        reverted = None
        if self.spare.state is SpareState.TRIAL and self.spare.slot is not None:
            reverted = Revert(self.spare.slot, self.spare.digest, UNCONFIRMED)
            self.spare_drop()
        elif self.spare.state is SpareState.CONFIRMED and self.spare.slot is not None:
            self._copy_home(self.spare.slot)
        self._trial = self.shadow = None
        self._clock = DeviceClock(self._driver, floor=self._clock.floor)
        self.boot_seed = self._rng.randbytes(BOOT_SEED_BYTES)
        return BootReport(self.components(), is_claimed=True, voucher_refusal="", stopped_cores={}, reverted=reverted)

    def lose_power(self) -> None:
        """Lose what is volatile: bytes of an image that were not programmed yet, and the sector that was begun."""
        undone = self.flash.switch_off()
        if self._inference is not None:
            self._inference.switch_off(self._loads())
        if self.spare.state is not SpareState.FILLING:
            return
        if undone > self.written:  # the spare's sectors were still being erased
            self.spare_drop()
        elif undone or self.written < self.spare.length:
            sector = self.flash.layout.geometry.sector_bytes
            self.written = (self.written - undone) // sector * sector
            self._is_cut = True

    def components(self) -> tuple[SoftwareComponent, ...]:
        """Return what runs now, in boot order, an image on trial included."""
        running = dict(self._home)
        if self._trial is not None:
            running[self._trial] = self._catalogue.image(self.spare.digest)
        return tuple(running[slot].component for slot in Slot if slot in running)

    def shown(self) -> Shown:
        """Return what evidence says of this boot."""
        return Shown(self.boot_seed, self.components(), self.lifecycle)

    def installed(self) -> Mapping[Slot, InstalledImage]:
        """Return what is confirmed, per slot."""
        return {slot: image.installed for slot, image in self._home.items()}

    def runs(self, slot: Slot) -> str:
        """Return the name of the confirmed image of a slot, or an empty string."""
        return self._home[slot].name if slot in self._home else ""

    def figures(self) -> Mapping[Core, CoreFigures]:
        """Return what each core that infers did so far."""
        return {} if self._inference is None else self._inference.figures(self._loads())

    def health(self) -> VirtualHealth | None:
        """Return what is to be told of its models, summed up until now; None: nothing is."""
        if self._inference is not None:
            self._inference.settle(self._loads())
        return None if self._inference is None else self._inference.health

    def faults_afterwards(self) -> Sequence[ReleaseFault]:
        """Return what goes wrong some time after what is confirmed now was confirmed."""
        return self._faults.afterwards([image.sha256 for image in self._home.values()])

    def spare_begin(self, slot: Slot, digest: str, length: int) -> int:
        """See `Machine.spare_begin`.

        Raises:
            ImageTooLargeError: for the slot's home or the spare.
            SpareStateError: an image is on trial or being copied home.
            PowerCutError: a brown-out.
        """
        limit = self.flash.layout.slot_bytes.get(slot, 0)
        if not 0 < length <= limit:
            raise ImageTooLargeError(f"{slot}: expected 1 to {limit} bytes, found {length}")
        if self.spare.state in {SpareState.TRIAL, SpareState.CONFIRMED}:
            raise SpareStateError(f"spare: expected it free, found {self.spare.state.name}")
        if (self.spare.slot, self.spare.digest) != (slot, digest):
            self.spare_drop()
            self.flash.erase(length)
            self.spare = Spare(SpareState.FILLING, slot, digest, length)
        elif self._is_cut:
            self.flash.erase(1)  # the sector that was being written
        self._is_cut = False
        return self.written

    def spare_write(self, offset: int, data: bytes) -> None:
        """See `Machine.spare_write`.

        Raises:
            SpareContentError: not the next bytes.
            SlowRetrievalError: a fault: the link gives up in the middle, again and again.
            PowerCutError: a brown-out.
        """
        if self.spare.state is not SpareState.FILLING or offset != self.written:
            raise SpareContentError(f"spare: expected bytes from {self.written}, found some from {offset}")
        if self.written + len(data) > self.spare.length // 2 and self._strikes(ReleaseFaultKind.DOWNLOAD):
            raise SlowRetrievalError(f"expected the bytes from {offset} in time, found the link gone")
        programmed = self.flash.program(len(data))
        self.written += programmed
        if programmed < len(data):
            raise brown_out()

    def spare_read(self, offset: int, length: int) -> bytes:
        """Return bytes that stand for the image's."""
        return bytes(max(0, min(length, self.written - offset)))

    def spare_digest(self, length: int) -> str:
        """Return the digest that was announced once all of the image is there."""
        return self.spare.digest if length == self.spare.length == self.written else ""

    def spare_drop(self) -> None:
        """Forget what the spare holds."""
        self.spare, self.written, self._trial, self._copied, self._is_cut = Spare(), 0, None, 0, False

    def home_read(self, slot: Slot, offset: int, length: int) -> bytes:
        """Refuse: no patch is offered to a virtual device."""
        raise SpareContentError(f"{slot}: expected no patch from bytes {offset} to {offset + length}, found one")

    def verify_spare(self, digest: str) -> None:
        """Judge the image in the spare: it is what was announced unless a fault spoiled it on the way.

        Raises:
            TargetRefusedError: it did.
        """
        if self._strikes(ReleaseFaultKind.VERIFY):
            self.spare_drop()
            raise TargetRefusedError(f"expected SHA-256 {digest[:16]}, found spoiled bytes")

    def start_trial(self, slot: Slot) -> None:
        """See `Machine.start_trial`.

        Raises:
            SpareStateError: the spare holds no whole image for the slot.
            CoreLoadError: a fault: the image does not start.
            PowerCutError: a fault: the device goes silent for good.
        """
        if (self.spare.state, self.spare.slot, self.written) != (SpareState.FILLING, slot, self.spare.length):
            raise SpareStateError(f"{slot}: expected a whole image in the spare, found {self.spare.state.name}")
        if self._strikes(ReleaseFaultKind.BOOT):
            self.spare_drop()
            raise CoreLoadError(f"{slot}: expected an image that starts, found one that does not")
        self.spare = Spare(SpareState.TRIAL, slot, self.spare.digest, self.spare.length)
        self._trial = slot
        self.flash.hold(START_SECONDS)
        if self._strikes(ReleaseFaultKind.BRICK):
            self._faults.brick()
            raise PowerCutError(f"{slot}: the device went silent in its trial")

    def begin_shadow(self, slot: Slot, task: ShadowTask) -> None:
        """See `Machine.begin_shadow`; what the comparison will come to is drawn up from the faults.

        Raises:
            SpareStateError: the spare holds no whole image for the slot.
        """
        if (self.spare.state, self.spare.slot, self.written) != (SpareState.FILLING, slot, self.spare.length):
            raise SpareStateError(f"{slot}: expected a whole image in the spare, found {self.spare.state.name}")
        kernel = self._faults.of_kernel(slot.core, self._catalogue.image(self.spare.digest).name)
        self.shadow = VirtualShadow(
            slot,
            self.spare.digest,
            task,
            begun=self._driver.monotonic(),
            now=self._driver.monotonic,
            differs=1.0 if kernel is Cause.GOLDEN_VECTORS else self._faults.disagrees(self.spare.digest),
            failure="" if kernel in {None, Cause.GOLDEN_VECTORS} else f"{kernel}: a fault of the core",
        )

    def end_shadow(self) -> None:
        """See `Machine.end_shadow`."""
        self.shadow = None

    def run_golden(self, core: Core, vectors: GoldenVectors) -> GoldenOutcome:
        """See `Machine.run_golden`; a model passes unless a fault strikes."""
        image = self._catalogue.image(self.spare.digest)
        kernel = self._faults.of_kernel(core, image.name)
        cause = Cause.GOLDEN_VECTORS if self._strikes(ReleaseFaultKind.GOLDEN_VECTORS) else kernel
        if cause is None:
            seconds = GOLDEN_VECTORS * _golden_seconds(image, cause) + LIVE_FRAMES * image.latency_seconds
            detail = f"{len(vectors.vectors)} golden vectors passed"
        else:
            seconds = _golden_seconds(image, cause)
            detail = f"{image.name}: expected answers, found {cause.value}"
        self.flash.hold(seconds)
        return GoldenOutcome(passed=cause is None, cause=cause, detail=detail, seconds=seconds)

    def confirm(self, slot: Slot) -> None:
        """See `Machine.confirm`.

        Raises:
            SpareStateError: the slot has no image on trial.
            SpareContentError: a fault: a sector did not keep its bytes; the old image runs on.
            PowerCutError: a brown-out after the image counts as confirmed; the next boot goes on with its copy home.
        """
        self._require_trial(slot)
        if self._strikes(ReleaseFaultKind.FLASH):
            self.spare_drop()
            raise SpareContentError(f"{slot}: expected a sector to keep its bytes, found others")
        self.spare = Spare(SpareState.CONFIRMED, slot, self.spare.digest, self.spare.length)
        self._trial = None
        self._copy_home(slot)

    def break_open(self) -> None:
        """Open the device to a debugger, as a thief would; no evidence hides that."""
        self.lifecycle = LifeCycle.NON_PSA_DEBUG

    def revert(self, slot: Slot, reason: str) -> None:
        """See `Machine.revert`.

        Raises:
            SpareStateError: the slot has no image on trial.
        """
        del reason
        self._require_trial(slot)
        self.spare_drop()

    def close(self) -> None:
        """Do nothing: what the machine holds outlives whoever uses it."""

    def _copy_home(self, slot: Slot) -> None:
        if slot not in self.flash.layout.two_places:
            self._copied = self.flash.copy_home(self.spare.length, begun=self._copied)
            if self._copied < self.flash.home_operations(self.spare.length):
                raise brown_out()
        image = self._catalogue.image(self.spare.digest)
        if self._inference is not None:
            self._inference.settle(self._loads())
        self._strike(image)
        self._home = {**self._home, slot: image}
        self.rot.fuses[slot] = max(self.rot.fuse(slot), image.custom.security_counter)
        self.spare_drop()

    def _strike(self, image: VirtualImage) -> None:
        """Have an image that is confirmed now be slow, or less sure, from its faults' times on."""
        found = {kind: self._faults.strikes(kind, image.sha256, confirmed=self.flash.now) for kind in STRIKING}
        if any(found.values()):
            self._struck = {**self._struck, image.sha256: found}

    def _loads(self) -> Iterator[Load]:
        """Yield what the cores run."""
        for slot in MODEL_SLOTS:
            if slot in self._home:
                image = self._home[slot]
                slow, drift = (self._struck.get(image.sha256, {}).get(kind, ()) for kind in STRIKING)
                yield Load(slot.core, image.name, image.latency_seconds, slow, drift, image.sha256)

    def _require_trial(self, slot: Slot) -> None:
        if self._trial is not slot:
            raise SpareStateError(f"{slot}: expected an image on trial, found none")

    def _strikes(self, kind: ReleaseFaultKind) -> bool:
        return self._faults.of_image(kind, self.spare.digest)


def _golden_seconds(image: VirtualImage, cause: Cause | None) -> float:
    """Return what one golden vector takes: its way to the core, and an inference that ends so."""
    failed = None if cause is Cause.GOLDEN_VECTORS else cause
    return traffic_seconds(GOLDEN_INPUT_BYTES) + busy_seconds(image.latency_seconds, failed)


def _expect_voucher(machine: VirtualMachine) -> Voucher:
    if machine.voucher is None:
        _unclaimed()
    return machine.voucher


def _unclaimed() -> NoReturn:
    raise AssertionError("every virtual device is claimed")
