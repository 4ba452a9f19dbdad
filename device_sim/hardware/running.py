"""What of a device's images runs now, and on which cores; volatile: a boot begins anew."""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.cores.m4 import M4Core
from device_sim.errors import BootStoppedError, CoreLoadError, DeviceSimError, SpareStateError, WornSectorError
from device_sim.hardware.boot import MeasuredImages, Revert, burns_fuse, component_of, verify_stage
from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.parts import Parts
from protocol.evidence import SoftwareComponent
from protocol.geometry import Core, ImageKind, Slot, slot_for
from protocol.image import VerifiedImage
from protocol.voucher import Voucher, public_keys


@dataclass(frozen=True, slots=True)
class Measured:
    """An image that runs, and its measurement."""

    image: InstalledImage
    component: SoftwareComponent


class Running:
    """The images that run, one of them perhaps on trial.

    Args:
        parts: hold the images.
        cores: that run them.
    """

    def __init__(self, parts: Parts, cores: Mapping[Core, M4Core]) -> None:
        self._parts = parts
        self._cores = cores
        self._package_keys: list[ec.EllipticCurvePublicKey] = []
        self._confirmed: dict[Slot, Measured] = {}
        self._trial: tuple[Slot, Measured] | None = None
        self.voucher: Voucher | None = None

    def stop(self) -> None:
        """Stop every core and forget what ran."""
        for core in self._cores.values():
            core.stop()
        self._confirmed, self._trial = {}, None
        self.voucher, self._package_keys = None, []

    def take(self, measured: MeasuredImages) -> None:
        """Take what a boot measured, and burn its security versions."""
        self._confirmed = {slot: _measured(slot, image) for slot, image in measured.images.items()}
        self.voucher = measured.voucher
        self._package_keys = public_keys(measured.voucher.package_keys) if measured.voucher else []
        # A confirmed image burns its security version; after a cut this catches up with what `keep_trial` began.
        for slot, security_version in measured.security_versions.items():
            self._parts.root_of_trust.raise_fuse(slot, security_version)

    def components(self) -> tuple[SoftwareComponent, ...]:
        """Return what runs, in boot order, an image on trial included."""
        running = dict(self._confirmed)
        if self._trial is not None:
            running[self._trial[0]] = self._trial[1]
        return tuple(running[slot].component for slot in Slot if slot in running)

    def installed(self) -> dict[Slot, InstalledImage]:
        """Return what is confirmed, per slot."""
        return {slot: self._confirmed[slot].image for slot in Slot if slot in self._confirmed}

    def read_image(self, slot: Slot) -> bytes | None:
        """Return the bytes that a slot runs from, unverified, or None."""
        return self._parts.slots.read_spare_image() if self.is_on_trial(slot) else self._parts.image(slot)

    def start_cores(self) -> dict[Core, DeviceSimError]:
        """Start every core; return why some do not run."""
        started = {core: self.start_core(core) for core in self._cores}
        return {core: error for core, error in started.items() if error is not None}

    def start_core(self, core: Core) -> DeviceSimError | None:
        """Start a core with the images it runs, verified again; return why it does not run, or None."""
        if core not in self._cores:
            return None  # the OS restarts the application; nothing of it is modelled but its image
        cell = self._cores[core]
        cell.stop()
        firmware_slot, model_slot = (slot_for(core, kind) for kind in (ImageKind.FIRMWARE, ImageKind.MODEL))
        try:
            firmware = self._verify(firmware_slot)
            if firmware is not None:
                cell.start(firmware, self._verify(model_slot), keeps_learned=not self._has_trial(core))
        except (BootStoppedError, CoreLoadError) as error:
            return error
        return None

    def is_on_trial(self, slot: Slot) -> bool:
        """Whether the slot runs an image that is not confirmed."""
        return self._trial is not None and self._trial[0] == slot

    def _has_trial(self, core: Core) -> bool:
        return self._trial is not None and self._trial[0].core == core

    def begin_trial(self, slot: Slot) -> None:
        """Verify the image in the spare and take it as what the slot runs.

        Raises:
            BootStoppedError: signature, kind or fuse refuse it; the spare is empty.
        """
        image = self.candidate(slot)
        self._parts.slots.mark_trial(slot)
        self._trial = (slot, _measured(slot, image))

    def candidate(self, slot: Slot) -> VerifiedImage:
        """Return the image in the spare, verified as for a trial; nothing changes what runs.

        Raises:
            SpareStateError: the spare holds no image for the slot.
            SpareContentError: the bytes do not have the announced digest; the spare is empty afterwards.
            BootStoppedError: signature, kind or fuse refuse it; the spare is empty.
        """
        unverified_image = self._parts.slots.require_complete(slot)
        try:
            return self._verify_bytes(slot, unverified_image, is_home=False)
        except BootStoppedError:
            self._parts.slots.drop()
            raise

    def keep_trial(self, slot: Slot) -> None:
        """Take the image on trial, which is settled, as confirmed, and burn its security version."""
        trial = self.require_trial(slot)
        self._confirmed[slot], self._trial = trial, None
        self._parts.root_of_trust.raise_fuse(slot, trial.image.security_version)

    def drop_trial(self, slot: Slot, reason: str) -> None:
        """Drop the image on trial, then keep why.

        Raises:
            SpareStateError: the slot has no image on trial.
        """
        digest = self.require_trial(slot).image.digest
        self._parts.slots.drop()
        self._trial = None
        self._parts.keep_revert(Revert(slot, digest, reason))

    def install(self, slot: Slot, unverified_image: bytes) -> None:
        """Verify an image, write it straight into its slot and take it as what the slot runs, from its next start on.

        Raises:
            BootStoppedError: signature, kind or fuse refuse it; nothing has changed.
            ImageTooLargeError: for the slot; nothing has changed.
            WornSectorError: a sector of the slot is worn out; the slot is empty.
        """
        image = self._verify_bytes(slot, unverified_image, is_home=True)
        try:
            self._parts.slots.install(slot, unverified_image)
        except WornSectorError:
            self._confirmed.pop(slot, None)
            raise
        self._confirmed[slot] = _measured(slot, image)
        if burns_fuse(image):
            self._parts.root_of_trust.raise_fuse(slot, image.info.security_version)

    def remove(self, slot: Slot) -> None:
        """Erase what a slot runs."""
        self._confirmed.pop(slot, None)
        self._parts.slots.erase_home(slot)

    def require_trial(self, slot: Slot) -> Measured:
        """Return the slot's image on trial.

        Raises:
            SpareStateError: it has none.
        """
        if self._trial is None or self._trial[0] != slot:
            raise SpareStateError(f"{slot}: expected an image on trial, found none")
        return self._trial[1]

    def _verify(self, slot: Slot | None) -> VerifiedImage | None:
        image = None if slot is None else self.read_image(slot)
        if slot is None or image is None:
            return None
        return self._verify_bytes(slot, image, is_home=not self.is_on_trial(slot))

    def _verify_bytes(self, slot: Slot, unverified_image: bytes, *, is_home: bool) -> VerifiedImage:
        return verify_stage(
            slot, unverified_image, self._package_keys, root_of_trust=self._parts.root_of_trust, is_home=is_home
        )


def _measured(slot: Slot, image: VerifiedImage) -> Measured:
    info = image.info
    installed = InstalledImage(
        slot=slot,
        digest=image.digest,
        name=info.name,
        security_version=info.security_version,
        component_id=info.component_id,
        image_id=info.image_id,
        built_at=info.built_at,
    )
    return Measured(installed, component_of(slot, image))
