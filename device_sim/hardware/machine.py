"""The simulated MT3620 as its software sees it: one object per device folder.

A machine is opened, booted, and used by one thread at a time. What survives is in the folder (docs/architecture.md):
flash.bin, rot.json, state.json and system/. A kill -9 of the simulator is a power cut between two operations; a
PowerCutError in a test is one within an operation. After it the machine is opened and booted again.

The way of an update, driven by device_sim/update:

    there = machine.spare_begin(slot, digest, length)     resumes where a cut download ended
    machine.spare_write(there, chunk) …                   multiples of 16 bytes, except the last
    machine.start_trial(slot)                             verifies, then restarts only the slot's core from the spare
    machine.run_golden(core, vectors)                     models only
    machine.confirm(slot)  or  machine.revert(slot, "…")  confirm copies home, restarts the core there, raises the fuse
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from device_sim.cores.a7 import GoldenOutcome
from device_sim.cores.m4 import Inference, M4Core
from device_sim.hardware.boot import BootReport, Revert
from device_sim.hardware.clock import Clock, DeviceClock
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.root_of_trust import RootOfTrust
from device_sim.hardware.secure_storage import SecureStorage
from device_sim.hardware.slots import Spare
from protocol.evidence import SoftwareComponent
from protocol.geometry import Core, Slot
from protocol.identity import DeviceId
from protocol.model import GoldenVectors
from protocol.scenario import Scenario
from protocol.voucher import Voucher
from tinyml.latency import Profile


@dataclass(frozen=True, slots=True)
class InstalledImage:
    """What a slot runs when nothing is on trial.

    Attributes:
        slot: where.
        digest: SHA-256 of the package, 64 hex digits.
        name: `name@version`.
        security_version: of the image.
        component_id: GUID.
    """

    slot: Slot
    digest: str
    name: str
    security_version: int
    component_id: str


class Machine:
    """One simulated MT3620; made by `manufacture`, taken up again by `open`."""

    @classmethod
    def manufacture(cls, devices: Path, *, seed: bytes | None = None) -> Path:
        """Make a device: identity key, CSR, blank flash.

        Args:
            devices: folder that gets the device's folder, named by the first 16 digits of its id.
            seed: makes the identity key repeatable; None draws a fresh one.

        Returns:
            The device's folder.

        Raises:
            DeviceFolderError: the device exists.
        """
        raise NotImplementedError

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
    ) -> "Machine":
        """Open a device's folder; nothing boots yet.

        Args:
            folder: the device's.
            clock: drives the device's clock.
            pool: runs the kernels of both M4 cores.
            scenario: which kernel faults the device may have.
            profile: software stack that M4 latency is modelled for.
            power: of tests that cut it.

        Raises:
            DeviceFolderError: a file is missing or malformed.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the folder."""
        raise NotImplementedError

    @property
    def folder(self) -> Path:
        """The device's folder."""
        raise NotImplementedError

    @property
    def device_id(self) -> DeviceId:
        """The device's id."""
        raise NotImplementedError

    @property
    def rot(self) -> RootOfTrust:
        """The root of trust: signs evidence and manifests, makes CSRs, holds fuses and counters."""
        raise NotImplementedError

    @property
    def storage(self) -> SecureStorage:
        """Secure storage in state.json: bytes by name."""
        raise NotImplementedError

    @property
    def clock(self) -> DeviceClock:
        """The device's clock; what it learns goes through `learn_time`, which keeps the floor."""
        raise NotImplementedError

    @property
    def idevid_chain(self) -> bytes:
        """The IDevID chain, PEM, leaf first.

        Raises:
            DeviceFolderError: the factory has not signed the device.
        """
        raise NotImplementedError

    @property
    def voucher(self) -> Voucher | None:
        """The voucher that the last boot verified, or None: the device follows no catalog."""
        raise NotImplementedError

    @property
    def boot_report(self) -> BootReport | None:
        """What the last boot found, or None before a boot and after one that stopped."""
        raise NotImplementedError

    @property
    def cores(self) -> Mapping[Core, M4Core]:
        """Both real-time cores, m4-0 and m4-1."""
        raise NotImplementedError

    @property
    def spare(self) -> Spare:
        """What the shared spare holds, and in which state it is."""
        raise NotImplementedError

    @property
    def last_revert(self) -> Revert | None:
        """The last image on trial that was dropped, by `revert` or by a boot; survives both."""
        raise NotImplementedError

    def boot(self) -> BootReport:
        """Finish or undo what a power cut left behind, then boot through the measured chain.

        Raises:
            BootStoppedError: a mandatory image is missing, tampered or below its fuse; no core runs.
        """
        raise NotImplementedError

    def reboot(self) -> BootReport:
        """Forget everything volatile and boot again; an image on trial reverts. Raises as `boot`."""
        raise NotImplementedError

    def components(self) -> tuple[SoftwareComponent, ...]:
        """Return what runs now, in boot order, an image on trial included."""
        raise NotImplementedError

    def installed(self) -> dict[Slot, InstalledImage]:
        """Return what is confirmed, per slot; an image on trial is not in it."""
        raise NotImplementedError

    def attest(self, nonce: bytes) -> bytes:
        """Return signed evidence of what runs now (PSA token).

        Args:
            nonce: see `protocol.evidence.bind_nonce`, 32 bytes.
        """
        raise NotImplementedError

    def learn_time(self, verified_time: datetime) -> None:
        """Set the device's clock by a signed time that has been verified, and keep its floor.

        Raises:
            ClockRollbackError: it lies below the floor.
        """
        raise NotImplementedError

    def restart(self, core: Core) -> None:
        """Restart one real-time core from its home slot; its sibling runs on. Not for a core on trial.

        Raises:
            CoreLoadError: the core cannot run its model.
        """
        raise NotImplementedError

    def spare_begin(self, slot: Slot, digest: str, length: int) -> int:
        """Make the spare ready for an image, or take up a write that was cut.

        Args:
            slot: where the image will live.
            digest: SHA-256 of the package, 64 hex digits.
            length: of the package, bytes.

        Returns:
            Bytes of this image that are there already, a multiple of the sector; the image's next byte to write.

        Raises:
            ImageTooLargeError: for the slot's home or the spare.
            SpareStateError: an image is on trial or being copied home.
        """
        raise NotImplementedError

    def spare_write(self, offset: int, data: bytes) -> None:
        """Write the next bytes of the image.

        Args:
            offset: what `spare_begin` returned, plus what was written since.
            data: a multiple of 16 bytes, unless it ends the image.

        Raises:
            SpareStateError: no image was begun.
            SpareContentError: not the next bytes, or more than were announced.
        """
        raise NotImplementedError

    def spare_read(self, offset: int, length: int) -> bytes:
        """Read from the spare."""
        raise NotImplementedError

    def start_trial(self, slot: Slot) -> None:
        """Verify the image in the spare and restart only the slot's core with it.

        Raises:
            SpareStateError: the spare holds no image for the slot.
            SpareContentError: the bytes do not have the announced digest; the spare is empty afterwards.
            BootStoppedError: signature, kind or fuse refuse the image; the spare is empty, the old image runs on.
            CoreLoadError: the core cannot run it; the spare is empty, the old image runs again.
        """
        raise NotImplementedError

    def run_golden(self, core: Core, vectors: GoldenVectors) -> GoldenOutcome:
        """Stream golden vectors from the A7 to a real-time core; see `cores.a7.run_golden`."""
        raise NotImplementedError

    def confirm(self, slot: Slot) -> None:
        """Keep the image on trial: record it, copy it home, restart its core there, raise the slot's fuse.

        Raises:
            SpareStateError: the slot has no image on trial.
        """
        raise NotImplementedError

    def revert(self, slot: Slot, reason: str) -> None:
        """Drop the image on trial and restart its core from home.

        Args:
            slot: has the image on trial.
            reason: kept as `last_revert`, for the report after a reboot.

        Raises:
            SpareStateError: the slot has no image on trial.
        """
        raise NotImplementedError

    def flash_factory(self, packages: Mapping[Slot, bytes]) -> None:
        """Write packages into system flash and home slots over the debug interface, as a factory does; unverified.

        Raises:
            ImageTooLargeError: a package does not fit its slot.
        """
        raise NotImplementedError

    def tamper(self, slot: Slot) -> None:
        """Flip one bit in the middle of a slot's image, as somebody with a programmer would.

        Raises:
            DeviceFolderError: the slot is empty.
        """
        raise NotImplementedError
