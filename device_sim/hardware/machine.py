"""The simulated MT3620 as its software sees it: one object per device folder.

A machine is opened, booted, and used by one thread at a time. What survives is in the folder (docs/architecture.md):
flash.bin, geometry.json, rot.json, state.json and system/. A kill -9 of the simulator is a power cut between two
operations; a PowerCutError in a test is one within an operation. After it the machine is opened and booted again.

The way of an update, driven by device_sim/update:

    there = machine.spare_begin(slot, digest, length)     resumes where a cut download ended
    machine.spare_write(there, chunk) …                   whole rows of the flash, except the last
    machine.begin_shadow(slot, task)                      verifies, then runs a model unheard; only where it is ordered
    machine.start_trial(slot)                             verifies, then restarts only the slot's core from the spare
    machine.run_golden(core, vectors)                     models only
    machine.confirm(slot)  or  machine.revert(slot, "…")  confirm settles the image, raises the fuse
"""

import contextlib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from device_sim.cores.a7 import GoldenOutcome, run_golden
from device_sim.cores.device_time import DeviceTime, FlashPlacement
from device_sim.cores.faults import faults_of
from device_sim.cores.kernels import Inference, Strain
from device_sim.cores.m4 import M4Core
from device_sim.cores.shadow import Comparison
from device_sim.errors import CoreLoadError, DeviceFolderError, SpareContentError, SpareStateError, WornSectorError
from device_sim.hardware.boot import BootReport, Revert, measured_boot
from device_sim.hardware.clock import Clock, DeviceClock
from device_sim.hardware.factory import IDEVID_FILE, flash_images, make_device, recover_images, tampered
from device_sim.hardware.files import read_file
from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.parts import Parts, open_parts
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.root_of_trust import RootOfTrust
from device_sim.hardware.running import Running
from device_sim.hardware.secure_storage import SecureStorage
from device_sim.hardware.spare import Spare, SpareState
from device_sim.learning.states import LearnedStates
from protocol.evidence import SoftwareComponent
from protocol.flash_geometry import FlashLayout
from protocol.geometry import M4_CLOCK_HZ, Core, Slot
from protocol.identity import DeviceId
from protocol.model import GoldenVectors
from protocol.scenario import Scenario
from protocol.shadow import ShadowTask
from protocol.voucher import Voucher
from tinyml.latency import Profile

_UNCONFIRMED = "restarted before the trial was confirmed"


class Machine:
    """One simulated MT3620; made by `manufacture`, taken up again by `open`."""

    def __init__(self, parts: Parts, *, clock: Clock, time: DeviceTime, cores: Mapping[Core, M4Core]) -> None:
        self._parts = parts
        self._time = time
        self._host_clock = clock
        self._clock = DeviceClock(clock, floor=self._parts.time_floor())
        self._cores = cores
        self._running = Running(parts, cores)
        self._report: BootReport | None = None
        self._shadow: Comparison | None = None

    @classmethod
    def manufacture(cls, devices: Path, *, seed: bytes | None = None, layout: FlashLayout | None = None) -> Path:
        """Make a device: identity key, CSR, blank flash.

        Args:
            devices: folder that gets the device's folder, named by the first 16 digits of its id.
            seed: makes the identity key repeatable; None draws a fresh one.
            layout: of the flash, kept in the folder; the MT3620's if it is not given.

        Returns:
            The device's folder.

        Raises:
            DeviceFolderError: the device exists.
        """
        return make_device(devices, seed=seed, layout=layout or FlashLayout())

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        clock: Clock,
        pool: Inference,
        scenario: Scenario | None = None,
        profile: Profile = Profile.REFERENCE,
        power: PowerSupply | None = None,
        placement: FlashPlacement = FlashPlacement.IN_GAPS,
        clock_hz: int = M4_CLOCK_HZ,
        crystal: Clock | None = None,
        strain: Strain | None = None,
    ) -> "Machine":
        """Open a device's folder; nothing boots yet.

        Args:
            folder: the device's.
            clock: drives the device's clock.
            pool: runs the kernels of both M4 cores.
            scenario: which kernel faults the device may have.
            profile: software stack that M4 latency is modelled for.
            power: of tests that cut it.
            placement: when flash work is done, in device time.
            clock_hz: of the M4 cores.
            crystal: drives the device's clock where that is not to go right.
            strain: makes inferences longer than modelled.

        Raises:
            DeviceFolderError: a file is missing or malformed.
        """
        time = DeviceTime(clock, placement=placement)
        parts = open_parts(folder, power=power or PowerSupply(), busy=time.occupy_flash)
        declared = scenario or Scenario()
        device_id = parts.root_of_trust.device_id
        cores = {
            core: M4Core(
                core,
                pool=pool,
                profile=profile,
                faults=faults_of(declared, device_id, core),
                clock_hz=clock_hz,
                device_id=device_id,
                strain=strain,
                learned=LearnedStates(parts.storage),
            )
            for core in (Core.M4_0, Core.M4_1)
        }
        return cls(parts, clock=crystal or clock, time=time, cores=cores)

    def close(self) -> None:
        """Let go of the folder."""
        self._stop()
        self._parts.memory.close()

    @property
    def folder(self) -> Path:
        """The device's folder."""
        return self._parts.folder

    @property
    def device_id(self) -> DeviceId:
        """The device's id."""
        return self.rot.device_id

    @property
    def rot(self) -> RootOfTrust:
        """The root of trust: signs evidence and manifests, makes CSRs, holds fuses and counters."""
        return self._parts.root_of_trust

    @property
    def storage(self) -> SecureStorage:
        """Secure storage in state.json: bytes by name."""
        return self._parts.storage

    @property
    def clock(self) -> DeviceClock:
        """The device's clock; what it learns goes through `learn_time`, which keeps the floor."""
        return self._clock

    @property
    def time(self) -> DeviceTime:
        """The device's own time line: what its cores and its flash take."""
        return self._time

    @property
    def idevid_chain(self) -> bytes:
        """The IDevID chain, PEM, leaf first.

        Raises:
            DeviceFolderError: the factory has not signed the device.
        """
        return read_file(self.folder / IDEVID_FILE)

    @property
    def voucher(self) -> Voucher | None:
        """The voucher that the last boot verified, or None: the device follows no catalog."""
        return self._running.voucher

    @property
    def boot_report(self) -> BootReport | None:
        """What the last boot found, or None before a boot and after one that stopped."""
        return self._report

    @property
    def cores(self) -> Mapping[Core, M4Core]:
        """Both real-time cores, m4-0 and m4-1."""
        return self._cores

    @property
    def spare(self) -> Spare:
        """What the shared spare holds, and in which state it is."""
        return self._parts.slots.spare

    @property
    def last_revert(self) -> Revert | None:
        """The last image on trial that was dropped, by `revert` or by a boot; survives both."""
        return self._parts.last_revert()

    def boot(self) -> BootReport:
        """Finish or undo what a power cut left behind, then boot through the measured chain.

        Raises:
            BootStoppedError: a mandatory image is missing, tampered or below its fuse; no core runs.
        """
        self._stop()
        reverted = self._recover()
        self.rot.new_boot_seed()
        measured = measured_boot(
            self._running.read_image,
            self._parts.ownership(self._clock.now()).settle,
            self._parts.authorities(),
            root_of_trust=self.rot,
        )
        if self._parts.time_floor() != self._clock.floor:  # the old catalog's word went with it
            self._clock = DeviceClock(self._host_clock, floor=self._parts.time_floor())
        self._running.take(measured)
        refused = self._running.start_cores() if measured.voucher else {}
        self._report = BootReport(
            components=self.components(),
            is_claimed=measured.voucher is not None,
            voucher_refusal=measured.voucher_refusal,
            stopped_cores={**refused, **measured.refused_models},
            reverted=reverted,
        )
        return self._report

    def reboot(self) -> BootReport:
        """Forget everything volatile and boot again; an image on trial reverts. Raises as `boot`."""
        self._clock = DeviceClock(self._host_clock, floor=self._parts.time_floor())
        return self.boot()

    def components(self) -> tuple[SoftwareComponent, ...]:
        """Return what runs now, in boot order, an image on trial included."""
        return self._running.components()

    def installed(self) -> dict[Slot, InstalledImage]:
        """Return what is confirmed, per slot; an image on trial is not in it."""
        return self._running.installed()

    def attest(self, nonce: bytes) -> bytes:
        """Return signed evidence of what runs now (PSA token).

        Args:
            nonce: see `protocol.evidence.bind_nonce`, 32 bytes.
        """
        return self.rot.attest(nonce, self.components())

    def learn_time(self, verified_time: datetime) -> None:
        """Set the device's clock by a signed time that has been verified, and keep its floor.

        Raises:
            ClockRollbackError: it lies below the floor.
            ClockLeapError: it lies beyond every time that the device can live to see.
        """
        self._clock.learn(verified_time)
        self._parts.keep_time_floor(self._clock.floor)

    def restart(self, core: Core) -> None:
        """Restart one core from home; an image on trial on it reverts, its sibling runs on.

        Raises:
            BootStoppedError: an image is refused; the core is stopped.
            CoreLoadError: the core cannot run its model; it is stopped.
        """
        slot = self.spare.slot
        if slot is not None and slot.core == core and self._running.is_on_trial(slot):
            self._running.drop_trial(slot, _UNCONFIRMED)
        error = self._running.start_core(core)
        if error is not None:
            raise error

    def spare_begin(self, slot: Slot, digest: str, length: int) -> int:
        """Make the spare ready for an image, or take up a write that was cut.

        Args:
            slot: where the image will live.
            digest: SHA-256 of the package, 64 hex digits.
            length: of the package, bytes.

        Returns:
            Bytes of this image that are there already, whole rows; the image's next byte to write.

        Raises:
            ImageTooLargeError: for the slot's home or the spare.
            SpareStateError: an image is on trial or being copied home.
            WornSectorError: a sector of the flash is worn out.
        """
        return self._parts.slots.begin(slot, digest, length)

    def spare_write(self, offset: int, data: bytes) -> None:
        """Write the next bytes of the image.

        Args:
            offset: what `spare_begin` returned, plus what was written since.
            data: whole rows of the flash, unless it ends the image.

        Raises:
            SpareStateError: no image was begun.
            SpareContentError: not the next bytes, or more than were announced.
        """
        self._parts.slots.write(offset, data)

    def spare_read(self, offset: int, length: int) -> bytes:
        """Read from the spare."""
        return self._parts.slots.read_spare(offset, length)

    def spare_digest(self, length: int) -> str:
        """Return the SHA-256 of the spare's first bytes, 64 hex digits."""
        return self._parts.slots.spare_digest(length)

    def spare_drop(self) -> None:
        """Forget what the spare holds of an image that was begun."""
        self._parts.slots.drop()

    def home_read(self, slot: Slot, offset: int, length: int) -> bytes:
        """Read from the confirmed image in a home slot; fewer bytes at its end."""
        return self._parts.slots.read_home_part(slot, offset, length)

    @property
    def shadow(self) -> Comparison | None:
        """The comparison that runs or has ended; None after `end_shadow` and after a start of its core."""
        shadow = self._shadow
        is_there = shadow is not None and (shadow.has_ended or self._cores[shadow.slot.core].has_candidate)
        return shadow if is_there else None

    def begin_shadow(self, slot: Slot, task: ShadowTask) -> None:
        """Verify the model in the spare and run it in shadow beside the one that the slot's core runs.

        A model that the core cannot run ends the comparison at once, which says so.

        Raises:
            SpareStateError: the spare holds no image for the slot.
            SpareContentError: the bytes do not have the announced digest; the spare is empty afterwards.
            BootStoppedError: signature, kind or fuse refuse it; the spare is empty.
            IncomparableModelError: it cannot be compared with what the core runs.
        """
        image = self._running.candidate(slot)
        core = self._cores[slot.core]
        incumbent = core.card
        try:
            card = core.load_candidate(image)
        except CoreLoadError as error:
            self._shadow = Comparison(slot, image.digest, task, time=self._time, by_score=False)
            self._shadow.fail(str(error))
            return
        by_score = incumbent is not None and len(incumbent.labels) == len(card.labels) == 1
        self._shadow = Comparison(slot, image.digest, task, time=self._time, by_score=by_score)

    def end_shadow(self) -> None:
        """Forget the model in shadow and its comparison."""
        if self._shadow is not None:
            self._cores[self._shadow.slot.core].drop_candidate()
            self._shadow = None

    def start_trial(self, slot: Slot) -> None:
        """Verify the image in the spare and restart only the slot's core with it.

        Raises:
            SpareStateError: the spare holds no image for the slot.
            SpareContentError: the bytes do not have the announced digest; the spare is empty afterwards.
            BootStoppedError: signature, kind or fuse refuse the image; the spare is empty, the old image runs on.
            CoreLoadError: the core cannot run it; the spare is empty, the old image runs again.
            WornSectorError: the flash's journal is worn out; the old image runs on.
        """
        self._running.begin_trial(slot)
        error = self._running.start_core(slot.core)
        if error is not None:
            self.revert(slot, str(error))
            raise error

    def run_golden(self, core: Core, vectors: GoldenVectors) -> GoldenOutcome:
        """Stream golden vectors from the A7 to a real-time core, in device time; see `cores.a7.run_golden`."""
        outcome = run_golden(self._cores[core], vectors)
        self._time.occupy_core(core, outcome.seconds)
        return outcome

    def confirm(self, slot: Slot) -> None:
        """Keep the image on trial: record it, bring it to where it stays, raise the fuse, restart its core.

        Raises:
            SpareStateError: the slot has no image on trial.
            SpareContentError: the image in the spare has changed; it is dropped, the old image runs again.
            WornSectorError: the flash's journal is worn out; likewise.
        """
        self._running.require_trial(slot)
        try:
            self._parts.slots.confirm(slot)
            with contextlib.suppress(WornSectorError):  # the image runs from the spare
                self._parts.slots.settle()
        except (SpareContentError, WornSectorError) as error:
            self.revert(slot, str(error))
            raise
        self._running.keep_trial(slot)
        self._running.start_core(slot.core)

    def revert(self, slot: Slot, reason: str) -> None:
        """Drop the image on trial and restart its core from home.

        Args:
            slot: has the image on trial.
            reason: kept as `last_revert`, for the report after a reboot.

        Raises:
            SpareStateError: the slot has no image on trial.
        """
        self._running.drop_trial(slot, reason)
        self._running.start_core(slot.core)

    def sideload(self, slot: Slot, package: bytes) -> None:
        """Write a package into its home slot over the cable, verified as at a boot, and restart only its core from it.

        Whether it may come that way, beyond what the boot asks, is the caller's to decide.

        Raises:
            SpareStateError: an image is on trial or being copied home.
            BootStoppedError: signature, kind or fuse refuse it: nothing has changed; or its core's other image does.
            ImageTooLargeError: for the slot; nothing has changed.
            WornSectorError: a sector of the slot is worn out; the slot is empty.
            CoreLoadError: the core cannot run it: it is in its slot, and the core is stopped.
        """
        self._require_settled()
        try:
            self._running.install(slot, package)
        finally:
            error = self._running.start_core(slot.core)
        if error is not None:
            raise error

    def remove(self, slot: Slot) -> None:
        """Erase a home slot over the cable and restart its core, which then lacks that image.

        Raises:
            SpareStateError: an image is on trial or being copied home.
            BootStoppedError, CoreLoadError: of the core's other image; the core is stopped.
        """
        self._require_settled()
        self._running.remove(slot)
        error = self._running.start_core(slot.core)
        if error is not None:
            raise error

    def flash_factory(self, packages: Mapping[Slot, bytes]) -> None:
        """Write packages into system flash and home slots over the debug interface, as a factory does; unverified.

        Raises:
            ImageTooLargeError: a package does not fit its slot.
        """
        flash_images(self.folder, self._parts.slots, packages)

    def recover(self, packages: Mapping[Slot, bytes]) -> None:
        """Bring the device back over the debug interface; see `factory.recover_images`. A boot has to follow."""
        self._stop()
        recover_images(self.folder, self._parts.slots, packages, root_of_trust=self.rot)

    def tamper(self, slot: Slot) -> None:
        """Flip one bit in the middle of a slot's image, as somebody with a programmer would.

        Raises:
            DeviceFolderError: the slot is empty.
        """
        image = self._running.read_image(slot)
        if image is None:
            raise DeviceFolderError(f"{slot}: expected an image to tamper with, found an empty slot")
        self.flash_factory({slot: tampered(image)})

    def _recover(self) -> Revert | None:
        dropped = self._parts.slots.recover()
        if dropped is None or dropped.slot is None:
            return None
        reverted = Revert(dropped.slot, dropped.digest, _UNCONFIRMED)
        self._parts.keep_revert(reverted)
        return reverted

    def _require_settled(self) -> None:
        if self.spare.state in (SpareState.TRIAL, SpareState.CONFIRMED):
            raise SpareStateError(f"spare: expected it free, found {self.spare.state.name} for {self.spare.slot}")

    def _stop(self) -> None:
        self._running.stop()
        self._report = self._shadow = None
