"""Whose the device is: the voucher in force, and the way from one catalog to another.

voucher.json is a letter box: whoever has a cable puts there what he likes. The voucher that counts is kept in secure
storage, and the root of trust keeps its sequence and digest, so that neither a replayed nor a rolled-back one counts.
At each boot, after the OS:

    1. the voucher in force is verified again: signature, device, and the sequence and digest of the root of trust;
    2. the offered one is taken if it is newer, has not expired, was issued at a time that a device takes for one, and
       hands over roots (`protocol.voucher`); what is refused changes nothing, and the voucher in force stays;
    3. a switch to another catalog that a power cut interrupted is finished.

A switch, in this order, so that a cut leaves the device with the old catalog or with the new one, never with a mix:

    a. one write of secure storage: the new voucher in; the old catalog's certificate, metadata, release floors,
       progress and time out; a note that the device is arriving;
    b. root of trust: sequence and digest. Before this the stored voucher is newer than the root of trust knows, and
       the next boot goes on with it; from here the old voucher is refused for ever;
    c. flash: images that the new catalog's keys do not sign are erased, and so is the spare.

What never falls, whoever owns the device: fuses, the manifest's counter, the life cycle. Release floors and the time
floor were the old catalog's word and go; the time floor begins anew where the voucher authority says it was.
A device that is arriving boots without the images that it lacks, so that the new catalog can bring them; the note goes
when every mandatory slot is filled.
"""

from dataclasses import dataclass
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from device_sim.errors import StorageFullError
from device_sim.hardware.clock import FIRST_FLOOR, LAST_TIME
from device_sim.hardware.root_of_trust import RootOfTrust
from device_sim.hardware.secure_storage import SecureStorage
from device_sim.hardware.slots import SlotStore
from protocol.errors import ProtocolError
from protocol.geometry import HOME_BYTES, ImageKind
from protocol.image import verify_package
from protocol.voucher import Voucher, VoucherError, check_roots, public_keys, verify_voucher

VOUCHER = "voucher"  # names in secure storage
TIME_FLOOR = "time-floor"
ARRIVAL = "arrival"
_CLEARING = b"clearing"  # values of ARRIVAL: what the old catalog left is being erased
_LACKING = b"lacking"  # it is erased; slots may be empty
_MANDATORY_HOMES = tuple(slot for slot in HOME_BYTES if slot.kind is not ImageKind.MODEL)


@dataclass(frozen=True, slots=True)
class Settlement:
    """Whose the device is after a boot.

    Attributes:
        voucher: in force, or None: the device follows no catalog.
        refusal: why the offered voucher, or the stored one, was not taken; else an empty string.
        may_lack_images: whether an empty mandatory slot stops nothing, because the new catalog is to fill it.
    """

    voucher: Voucher | None
    refusal: str = ""
    may_lack_images: bool = False


@dataclass(frozen=True, slots=True)
class Ownership:
    """Decides whose the device is; the parts are those of its folder.

    Attributes:
        root_of_trust: keeps sequence and digest of the voucher in force.
        storage: keeps the voucher, and everything that is the catalog's.
        slots: hold the catalog's images.
        offered: what voucher.json holds, unverified, or None.
        now: the device's time, a lower bound of the real one; UTC and aware.
    """

    root_of_trust: RootOfTrust
    storage: SecureStorage
    slots: SlotStore
    offered: bytes | None
    now: datetime

    def settle(self, voucher_key: ec.EllipticCurvePublicKey) -> Settlement:
        """Go through the steps of the module.

        Args:
            voucher_key: of the authority that the factory burnt in.
        """
        # Step 1: the voucher in force.
        voucher, refusal = self._in_force(voucher_key)
        # Step 2: the offered one.
        try:
            newer = self._newer(voucher, voucher_key)
            if newer is not None:
                self._switch(voucher, newer)
                voucher, refusal = newer, ""
        except (ProtocolError, StorageFullError) as error:
            refusal = str(error)
        if voucher is None:
            return Settlement(None, refusal)
        # Step 3: what a cut interrupted.
        return Settlement(voucher, refusal, may_lack_images=self._finish_arrival(voucher))

    def _in_force(self, voucher_key: ec.EllipticCurvePublicKey) -> tuple[Voucher | None, str]:
        stored = self.storage.get(VOUCHER)
        if stored is None:
            return None, ""
        try:
            voucher = self._verify(stored, voucher_key)
        except ProtocolError as error:
            return None, str(error)
        self.root_of_trust.take_voucher(voucher.sequence, voucher.digest)
        return voucher, ""

    def _newer(self, in_force: Voucher | None, voucher_key: ec.EllipticCurvePublicKey) -> Voucher | None:
        if self.offered is None or self.offered == self.storage.get(VOUCHER):
            return None
        offered = self._verify(self.offered, voucher_key, now=self.now)
        if in_force is not None and in_force.sequence == offered.sequence:
            return None
        # A time floor that is too high would make every later signed time a rollback, for ever.
        if not FIRST_FLOOR <= offered.issued_at <= LAST_TIME:
            raise VoucherError(
                f"voucher: expected one issued from {FIRST_FLOOR:%F} to {LAST_TIME:%F}, found {offered.issued_at:%F}"
            )
        check_roots(offered)
        return offered

    def _verify(
        self, unverified: bytes, voucher_key: ec.EllipticCurvePublicKey, *, now: datetime | None = None
    ) -> Voucher:
        """Verify a voucher that is newer than the one in force, or that very one."""
        sequence, digest = self.root_of_trust.voucher
        voucher = verify_voucher(
            unverified, self.root_of_trust.device_id, voucher_key=voucher_key, sequence_in_force=sequence - 1, now=now
        )
        if voucher.sequence == sequence and digest not in ("", voucher.digest):
            raise VoucherError(f"voucher: expected a sequence above {sequence}, found another one of that sequence")
        return voucher

    def _switch(self, previous: Voucher | None, voucher: Voucher) -> None:
        # Steps a and b of the switch; c follows in `_finish_arrival`.
        changes = {VOUCHER: self.offered}
        if self._leaves_a_catalog(previous, voucher):
            changes = dict.fromkeys(self.storage.names()) | changes
            changes |= {TIME_FLOOR: voucher.issued_at.isoformat().encode(), ARRIVAL: _CLEARING}
        self.storage.update(changes)
        self.root_of_trust.take_voucher(voucher.sequence, voucher.digest)

    def _leaves_a_catalog(self, previous: Voucher | None, voucher: Voucher) -> bool:
        if previous is not None:
            return not voucher.is_of_catalog(previous)
        # No voucher in force: the device was never claimed, or secure storage is not what the root of trust knows.
        sequence, digest = self.root_of_trust.voucher
        is_first_record = not digest and sequence == voucher.sequence  # of a device that kept the sequence alone
        return sequence > 0 and not is_first_record

    def _finish_arrival(self, voucher: Voucher) -> bool:
        """Erase what the old catalog left, once; return whether mandatory slots are still empty after a switch."""
        stage = self.storage.get(ARRIVAL)
        if stage is None:
            return False
        if stage == _CLEARING:
            self._clear(public_keys(voucher.package_keys))
            self.storage.put(ARRIVAL, _LACKING)
        lacks = any(self.slots.home(slot) is None for slot in _MANDATORY_HOMES)
        if not lacks:
            self.storage.update({ARRIVAL: None})
        return lacks

    def _clear(self, package_keys: list[ec.EllipticCurvePublicKey]) -> None:
        # Step c of the switch.
        for slot in HOME_BYTES:
            image = self.slots.read_home(slot)
            try:
                if image is not None:
                    verify_package(image, package_keys, kind=slot.kind)
            except ProtocolError:
                self.slots.erase_home(slot)
        self.slots.erase_spare()
