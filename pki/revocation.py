"""Certificate revocation lists (RFC 5280 §5): make them by an authority's key, and verify unverified ones.

A list is complete for its issuer: version 2, with its number, the issuer's key id, and when the next one comes at the
latest. Verification of an unverified list, in this order:
    1. length: at most `MAX_CRL_BYTES`;
    2. form: one DER CertificateList, nothing after it;
    3. issuer: named after the authority, with its key id (§5.2.1);
    4. signature: ECDSA with SHA-256 by the authority's key, of whole octets, so that one list has one encoding;
    5. extensions: a CRL number (§5.2.3), and nothing critical, so that neither a delta nor a partial list is taken for
       a complete one;
    6. times: issued by now, the next one due later, at most `MAX_LIFETIME` after it;
    7. entries: each serial number once, with a reason that is known, revoked before the list was issued.
Not checked here: the authority's own certificate; whoever names it as issuer has verified it.

What replaces a list in force must have a higher number and miss nothing that was revoked; `check_succession` says so.
A certificate on hold may be released, every other revocation is for ever.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID

from pki.authority import CertificateAuthority
from pki.errors import CrlError, CrlSuccessionError
from protocol.identity import X509_ERRORS

MAX_CRL_BYTES = 4 * 1024 * 1024  # about 80,000 entries
MAX_NUMBER = (1 << 63) - 1
MAX_LIFETIME = timedelta(days=400)
CLOCK_SKEW = timedelta(minutes=5)


class Reason(StrEnum):
    """Why a certificate was revoked (RFC 5280 §5.3.1); those that apply to a device's certificate."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    CERTIFICATE_HOLD = "certificate-hold"  # may be released
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"

    @property
    def flag(self) -> x509.ReasonFlags:
        """The reason as a list carries it."""
        return _FLAGS[self]


_FLAGS: Mapping[Reason, x509.ReasonFlags] = {
    Reason.UNSPECIFIED: x509.ReasonFlags.unspecified,
    Reason.KEY_COMPROMISE: x509.ReasonFlags.key_compromise,
    Reason.AFFILIATION_CHANGED: x509.ReasonFlags.affiliation_changed,
    Reason.SUPERSEDED: x509.ReasonFlags.superseded,
    Reason.CESSATION_OF_OPERATION: x509.ReasonFlags.cessation_of_operation,
    Reason.CERTIFICATE_HOLD: x509.ReasonFlags.certificate_hold,
    Reason.PRIVILEGE_WITHDRAWN: x509.ReasonFlags.privilege_withdrawn,
}
_REASONS = {flag: reason for reason, flag in _FLAGS.items()}


@dataclass(frozen=True, slots=True)
class Revocation:
    """One certificate's revocation.

    Attributes:
        revoked_at: UTC, aware, whole seconds.
    """

    revoked_at: datetime
    reason: Reason


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A list that is signed, or has been verified.

    Attributes:
        number: rises with each list of the issuer.
        this_update: when it was issued, UTC.
        next_update: when the next one comes at the latest, UTC.
        revoked: by serial number.
        der: the list itself.
    """

    number: int
    this_update: datetime
    next_update: datetime
    revoked: Mapping[int, Revocation]
    der: bytes


def sign_crl(
    authority: CertificateAuthority,
    *,
    number: int,
    revoked: Mapping[int, Revocation],
    now: datetime,
    lifetime: timedelta,
) -> RevocationList:
    """Sign a complete list.

    Args:
        authority: the issuer.
        number: above that of every earlier list.
        revoked: by serial number.
        now: UTC, aware.
        lifetime: until the next list comes at the latest.

    Raises:
        CrlError: the lifetime is too long or none.
    """
    if not timedelta(0) < lifetime <= MAX_LIFETIME:
        raise CrlError(f"CRL: expected a lifetime of up to {MAX_LIFETIME.days} days, found {lifetime}")
    this_update = now.astimezone(UTC).replace(microsecond=0)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(this_update)
        .next_update(this_update + lifetime)
        .add_extension(_authority_key_id(authority.certificate), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, revocation in sorted(revoked.items()):
        builder = builder.add_revoked_certificate(_entry(serial, revocation))
    der = authority.sign_crl(builder).public_bytes(Encoding.DER)
    return RevocationList(number, this_update, this_update + lifetime, dict(revoked), der)


def verify_crl(
    unverified_crl: bytes, *, issuer: x509.Certificate, now: datetime, may_be_stale: bool = False
) -> RevocationList:
    """Verify a list of an authority; the steps are those of the module.

    Args:
        unverified_crl: DER.
        issuer: the authority.
        now: UTC, aware.
        may_be_stale: whether the next list may be overdue; for a list that is about to be replaced.

    Raises:
        CrlError: any step.
    """
    crl = _load(unverified_crl)
    try:
        _check_issuer(crl, unverified_crl, issuer)
        number = _number(crl)
        next_update = _check_times(crl, now, may_be_stale=may_be_stale)
        revoked = _entries(crl)
    except (x509.ExtensionNotFound, *X509_ERRORS) as error:
        raise CrlError(f"CRL: expected a list of RFC 5280, found {type(error).__name__}") from error
    return RevocationList(number, crl.last_update_utc, next_update, revoked, unverified_crl)


def named_issuer(unverified_crl: bytes) -> str:
    """Return the key id, hex, of the authority that an unverified list names; nothing else is checked.

    Raises:
        CrlError: steps 1 or 2, or it names none.
    """
    try:
        authority = _load(unverified_crl).extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    except (x509.ExtensionNotFound, *X509_ERRORS) as error:
        raise CrlError("CRL: expected the key id of its authority, found none") from error
    return (authority.key_identifier or b"").hex()


def check_succession(before: RevocationList, after: RevocationList) -> None:
    """Check that one verified list may replace another of the same issuer.

    Raises:
        CrlSuccessionError: its number is not higher, it was issued before, or it misses or changes a revocation that
            is for ever.
    """
    if after.number <= before.number:
        raise CrlSuccessionError(f"CRL number: expected above {before.number}, found {after.number}")
    if after.this_update < before.this_update - CLOCK_SKEW:
        raise CrlSuccessionError(f"CRL: expected issued since {before.this_update}, found {after.this_update}")
    for serial, revocation in before.revoked.items():
        if revocation.reason is Reason.CERTIFICATE_HOLD:
            continue
        found = after.revoked.get(serial)
        if found is None:
            raise CrlSuccessionError(f"CRL: expected serial number {serial:x} still revoked, found it missing")
        if found.reason is Reason.CERTIFICATE_HOLD:
            raise CrlSuccessionError(f"CRL: expected serial number {serial:x} revoked for ever, found it on hold")
        if found != revocation:
            raise CrlSuccessionError(
                f"CRL: expected serial number {serial:x} revoked since {revocation.revoked_at:%FT%TZ} "
                f"({revocation.reason}), found {found.revoked_at:%FT%TZ} ({found.reason})"
            )


def _load(unverified_crl: bytes) -> x509.CertificateRevocationList:
    # Step 1: length.
    if len(unverified_crl) > MAX_CRL_BYTES:
        raise CrlError(f"CRL: expected at most {MAX_CRL_BYTES} bytes, found {len(unverified_crl)}")
    # Step 2: form.
    try:
        return x509.load_der_x509_crl(unverified_crl)
    except X509_ERRORS as error:
        raise CrlError("CRL: expected one DER certificate revocation list, found other bytes") from error


def _check_issuer(crl: x509.CertificateRevocationList, unverified_crl: bytes, issuer: x509.Certificate) -> None:
    # Step 3: issuer.
    if crl.issuer != issuer.subject:
        raise CrlError("CRL: expected one of the authority, found another issuer's")
    if crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value != _authority_key_id(issuer):
        raise CrlError("CRL: expected the authority's key id, found another")
    # Step 4: signature.
    if crl.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA256:
        raise CrlError(f"CRL: expected ECDSA with SHA-256, found {crl.signature_algorithm_oid.dotted_string}")
    # X.690 §8.6.2: the octet before it counts unused bits; parsers take any count whose bits are zero in the signature.
    if not unverified_crl.endswith(b"\x00" + crl.signature):
        raise CrlError("CRL: expected a signature of whole octets at its end, found another encoding")
    if not crl.is_signature_valid(_key_of(issuer)):
        raise CrlError("CRL: expected a signature by the authority, found another")


def _number(crl: x509.CertificateRevocationList) -> int:
    # Step 5: extensions.
    critical = [extension.oid.dotted_string for extension in crl.extensions if extension.critical]
    if critical:
        raise CrlError(f"CRL: expected a complete list without critical extensions, found {critical}")
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    if not 0 <= number <= MAX_NUMBER:
        raise CrlError(f"CRL number: expected 0 to {MAX_NUMBER}, found {number:#x}"[:120])
    return number


def _check_times(crl: x509.CertificateRevocationList, now: datetime, *, may_be_stale: bool) -> datetime:
    # Step 6: times.
    this_update, next_update = crl.last_update_utc, crl.next_update_utc
    if this_update > now + CLOCK_SKEW:
        raise CrlError(f"CRL: expected issued by {now:%FT%TZ}, found {this_update:%FT%TZ}")
    earliest = this_update if may_be_stale else max(now, this_update)
    if next_update is None or next_update <= earliest:
        raise CrlError(f"CRL: expected the next one due after {earliest:%FT%TZ}, found {next_update}")
    if next_update - this_update > MAX_LIFETIME:
        raise CrlError(f"CRL: expected a lifetime of up to {MAX_LIFETIME.days} days, found until {next_update:%F}")
    return next_update


def _entries(crl: x509.CertificateRevocationList) -> dict[int, Revocation]:
    # Step 7: entries.
    revoked: dict[int, Revocation] = {}
    for entry in crl:
        if entry.serial_number in revoked:
            raise CrlError(f"CRL: expected each serial number once, found {entry.serial_number:x} again")
        if entry.revocation_date_utc > crl.last_update_utc + CLOCK_SKEW:
            raise CrlError(f"CRL: expected {entry.serial_number:x} revoked before the list, found it later")
        revoked[entry.serial_number] = Revocation(entry.revocation_date_utc, _reason(entry))
    return revoked


def _reason(entry: x509.RevokedCertificate) -> Reason:
    flag = x509.ReasonFlags.unspecified
    for extension in entry.extensions:
        if isinstance(extension.value, x509.CRLReason):
            flag = extension.value.reason
        elif extension.critical:
            raise CrlError(f"CRL: expected no critical extension of an entry, found {extension.oid.dotted_string}")
    if flag not in _REASONS:
        raise CrlError(f"CRL: expected one of {[str(reason) for reason in Reason]}, found {flag.value}")
    return _REASONS[flag]


def _entry(serial: int, revocation: Revocation) -> x509.RevokedCertificate:
    builder = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(revocation.revoked_at)
    # §5.3.1: the reason is left out in the place of "unspecified".
    if revocation.reason is not Reason.UNSPECIFIED:
        builder = builder.add_extension(x509.CRLReason(revocation.reason.flag), critical=False)
    return builder.build()


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)


def _key_of(issuer: x509.Certificate) -> ec.EllipticCurvePublicKey:
    public_key = issuer.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        raise CrlError("CRL: expected an authority with a P-256 key, found another type")
    return public_key
