"""The voucher authority: it signs the word on which catalog a device belongs to, and signs it only once per owner.

Before a voucher is signed, in this order:
    1. holder: the catalog of the device's last voucher, by the log or by what the device shows; the later one counts;
    2. nobody holds it: the manufacturer gives it to whom he sold it;
    3. the same catalog holds it (id and root key): a newer voucher supersedes the older one;
    4. another catalog holds it: that catalog's root key must have released this device, from that very voucher, to
       this catalog. Without it there is no voucher, whoever asks and whoever has the device in hand;
    5. sequence: seconds since 1970, and above the last one's;
    6. log: the entry is on disk before the voucher is handed out.
Nobody else writes to the log from step 1 to step 6, so that two commands at once do not give one device away twice.
Not checked here: that the device is of this manufacturer; the caller verifies its IDevID.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from pki.errors import VoucherRefusedError
from pki.handover import Handover, ends_voucher, root_key_of, verify_device_release
from pki.voucher_log import IssuedVoucher, VoucherLog
from protocol.document import sign_document
from protocol.identity import DeviceId, spki_der
from protocol.signing import Signer
from protocol.voucher import MAX_SEQUENCE, VOUCHER_PAYLOAD_TYPE, Assertion, Voucher, public_keys, verify_voucher


def sign_voucher(voucher: Voucher, signer: Signer) -> bytes:
    """Sign a voucher with the `voucher` key; a DSSE envelope, JSON bytes."""
    return sign_document(voucher, VOUCHER_PAYLOAD_TYPE, signer)


@dataclass(frozen=True, slots=True)
class VoucherRequest:
    """Who is to get a device, and on what grounds.

    Attributes:
        device_id: of a device whose IDevID the caller has verified.
        handover: verified, of the catalog that is to get it.
        unverified_release: release.json of the catalog that holds it, or None.
        unverified_voucher: the voucher that the device shows, or None.
        is_proved: whether the device proved itself to the new owner.
        expires_at: until when the device may take the voucher, UTC, aware; None for ever.
    """

    device_id: DeviceId
    handover: Handover
    unverified_release: bytes | None = None
    unverified_voucher: bytes | None = None
    is_proved: bool = False
    expires_at: datetime | None = None


class VoucherAuthority:
    """The manufacturer's voucher authority.

    Args:
        signer: the `voucher` key.
        log: of every voucher that it issued.
    """

    def __init__(self, signer: Signer, log: VoucherLog) -> None:
        self._signer = signer
        self._log = log

    def issue(self, request: VoucherRequest, *, now: datetime) -> bytes:
        """Issue a voucher, by the steps of the module; a DSSE envelope, JSON bytes.

        Args:
            request: who is to get the device.
            now: UTC, aware.

        Raises:
            VoucherRefusedError: step 4, or there is no higher sequence.
            HandoverError: the release is malformed, or not by the holder.
            VoucherLogError: the log is not whole.
            ProtocolError: the voucher that the device shows is not of this authority.
        """
        with self._log.locked() as append:
            holder = self._holder(request)
            release = _required_release(request, holder)
            voucher = _voucher(request, holder, now=now)
            signed = sign_voucher(voucher, self._signer)
            # Step 6: log.
            append(_logged(voucher, release))
        return signed

    def has_superseded(self, voucher: Voucher) -> bool:
        """Say whether this authority has issued another voucher for the device since; errors as the log's."""
        last = self._log.last_of(voucher.device_id)
        return last is not None and last.voucher_sha256 != voucher.digest

    def _holder(self, request: VoucherRequest) -> IssuedVoucher | None:
        # Step 1: holder.
        logged = self._log.last_of(request.device_id)
        if request.unverified_voucher is None:
            return logged
        shown = verify_voucher(request.unverified_voucher, request.device_id, voucher_key=self._signer.public_key)
        return logged if logged is not None and logged.sequence >= shown.sequence else _logged(shown, None)


def _required_release(request: VoucherRequest, holder: IssuedVoucher | None) -> bytes | None:
    """Return the release that a voucher needs, verified; None if it needs none."""
    handover = request.handover
    # Step 2: nobody holds it. Step 3: the same catalog does.
    if holder is None or _is_held_by(holder, handover):
        return None
    # Step 4: another catalog does.
    name = f"device {request.device_id[:16]}…"
    if request.unverified_release is None:
        raise VoucherRefusedError(
            f"{name}: expected a release by catalog {holder.catalog_name} ({holder.catalog_id}), which holds it, "
            "found none"
        )
    [root_key] = public_keys([holder.root_key])
    release = verify_device_release(request.unverified_release, root_key=root_key)
    if not ends_voucher(release, request.device_id, holder.sequence, handover=handover):
        raise VoucherRefusedError(
            f"{name}: expected a release from its voucher {holder.sequence} to catalog {handover.catalog_name} "
            f"({handover.fingerprint[:16]}…), found one for other devices, another voucher or another catalog"
        )
    return request.unverified_release


def _voucher(request: VoucherRequest, holder: IssuedVoucher | None, *, now: datetime) -> Voucher:
    # Step 5: sequence.
    sequence = max(int(now.timestamp()), 1 if holder is None else holder.sequence + 1)
    if sequence > MAX_SEQUENCE:
        raise VoucherRefusedError(
            f"device {request.device_id[:16]}…: expected a sequence up to {MAX_SEQUENCE}, found none"
        )
    is_verified = request.is_proved or holder is not None
    return request.handover.voucher(
        request.device_id,
        sequence=sequence,
        issued_at=now,
        expires_at=request.expires_at,
        assertion=Assertion.VERIFIED if is_verified else Assertion.LOGGED,
    )


def _is_held_by(holder: IssuedVoucher, handover: Handover) -> bool:
    return holder.catalog_id == handover.catalog_id and holder.root_key == spki_der(handover.root_key())


def _logged(voucher: Voucher, release: bytes | None) -> IssuedVoucher:
    return IssuedVoucher(
        issued_at=voucher.issued_at,
        device_id=voucher.device_id,
        sequence=voucher.sequence,
        catalog_id=voucher.catalog_id,
        catalog_name=voucher.catalog_name,
        root_key=spki_der(root_key_of(voucher)),
        assertion=voucher.assertion,
        voucher_sha256=voucher.digest,
        release_sha256=None if release is None else hashlib.sha256(release).hexdigest(),
    )
