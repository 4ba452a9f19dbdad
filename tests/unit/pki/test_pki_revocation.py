"""Revocation lists: made, verified with one thing wrong per case, and replaced."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from pki.authority import issuer_key_id
from pki.errors import CrlError, CrlSuccessionError
from pki.revocation import (
    MAX_CRL_BYTES,
    MAX_NUMBER,
    Reason,
    Revocation,
    RevocationList,
    check_succession,
    named_issuer,
    sign_crl,
    verify_crl,
)
from protocol.signing import SoftwareSigner
from tests.unit.pki.factory_builder import factory_authority
from tests.unit.pki.pki_builder import NOW

SIGNER = SoftwareSigner.generate()
AUTHORITY = factory_authority(SIGNER)
ISSUER = AUTHORITY.certificate
LIFETIME = timedelta(days=30)
REVOKED = {serial: Revocation(NOW, reason) for serial, reason in enumerate(Reason, start=1)}
Builder = x509.CertificateRevocationListBuilder


def crl(number: int = 1, **changes: object) -> RevocationList:
    arguments = {"number": number, "revoked": REVOKED, "now": NOW, "lifetime": LIFETIME} | changes
    return sign_crl(AUTHORITY, **arguments)  # type: ignore[arg-type]


def key_id_value(certificate: x509.Certificate = ISSUER) -> x509.SubjectKeyIdentifier:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value


def key_id(certificate: x509.Certificate = ISSUER) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id_value(certificate))


def builder(issuer: x509.Name = ISSUER.subject, lifetime: timedelta = LIFETIME) -> Builder:
    """A list that is right but for its extensions, which each case adds."""
    return Builder().issuer_name(issuer).last_update(NOW).next_update(NOW + lifetime)


def entry(serial: int = 5) -> x509.RevokedCertificateBuilder:
    return x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW)


def complete(unfinished: Builder) -> Builder:
    return unfinished.add_extension(key_id(), critical=False).add_extension(x509.CRLNumber(1), critical=False)


def signed(unfinished: Builder, signer: SoftwareSigner = SIGNER) -> bytes:
    return unfinished.sign(signer.private_key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_signed_list_verifies_with_every_reason() -> None:
    """What comes back is what went in, the reasons included."""
    made = crl()
    verified = verify_crl(made.der, issuer=ISSUER, now=NOW)
    assert verified == made
    assert verified.revoked == REVOKED


def test_unspecified_reason_is_left_out() -> None:
    """RFC 5280 §5.3.1; a reader takes it for granted."""
    made = x509.load_der_x509_crl(crl(revoked={7: Revocation(NOW, Reason.UNSPECIFIED)}).der)
    assert len(made[0].extensions) == 0


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(days=401)])
def test_lifetime_outside_its_bounds_is_not_signed(lifetime: timedelta) -> None:
    """A list that never ends would hide the ones after it."""
    with pytest.raises(CrlError, match="expected a lifetime"):
        crl(lifetime=lifetime)


def test_overdue_list_may_be_read_to_be_replaced() -> None:
    """Otherwise nobody could renew it."""
    overdue = crl(now=NOW - 2 * LIFETIME, revoked={})
    assert verify_crl(overdue.der, issuer=ISSUER, now=NOW, may_be_stale=True) == overdue


def test_authority_of_another_algorithm_is_refused() -> None:
    """Every authority of ours has a P-256 key."""
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(ISSUER.subject)
        .issuer_name(ISSUER.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + LIFETIME)
        .add_extension(key_id_value(), critical=False)
        .sign(key, None)
    )
    with pytest.raises(CrlError, match="expected an authority with a P-256 key"):
        verify_crl(crl().der, issuer=certificate, now=NOW)


def test_longest_list_is_read_and_a_longer_one_is_not() -> None:
    """The bound is on bytes, before anything is parsed."""
    with pytest.raises(CrlError, match=f"expected at most {MAX_CRL_BYTES} bytes"):
        verify_crl(b"\x30" * (MAX_CRL_BYTES + 1), issuer=ISSUER, now=NOW)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_no_list(unverified: bytes) -> None:
    """Never another exception."""
    with pytest.raises(CrlError):
        verify_crl(unverified, issuer=ISSUER, now=NOW)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_flipped_byte_is_refused(position: int, flip: int) -> None:
    """Wherever it is: in the signed part, or around it."""
    der = bytearray(GOOD.der)
    der[position % len(der)] ^= flip
    with pytest.raises(CrlError):
        verify_crl(bytes(der), issuer=ISSUER, now=NOW)


def even_crl() -> RevocationList:
    """A list whose signature ends in a zero bit, which could be said to be unused."""
    return next(made for made in iter(crl, None) if made.der[-1] % 2 == 0)


def test_unused_bits_of_the_signature_are_refused() -> None:
    """Other bytes of the same meaning are not the list that was signed."""
    der = bytearray(even_crl().der)
    der[-len(x509.load_der_x509_crl(bytes(der)).signature) - 1] = 1
    assert x509.load_der_x509_crl(bytes(der)).is_signature_valid(ISSUER.public_key())  # type: ignore[arg-type]
    with pytest.raises(CrlError, match="expected a signature of whole octets"):
        verify_crl(bytes(der), issuer=ISSUER, now=NOW)


GOOD = crl()
OTHER = factory_authority(SoftwareSigner.generate()).certificate


@pytest.mark.parametrize(
    ("unverified", "rule"),
    [
        (lambda: GOOD.der + b"\x00", "expected one DER"),
        (lambda: signed(complete(builder(OTHER.issuer))), "found another issuer's"),
        (lambda: signed(builder().add_extension(key_id(OTHER), critical=False)), "found another"),
        (lambda: signed(builder()), "found ExtensionNotFound"),
        (lambda: signed(complete(builder()), SoftwareSigner.generate()), "expected a signature by the authority"),
        (
            lambda: complete(builder()).sign(SIGNER.private_key, hashes.SHA384()).public_bytes(Encoding.DER),
            "expected ECDSA with SHA-256",
        ),
        (lambda: signed(builder().add_extension(key_id(), critical=False)), "found ExtensionNotFound"),
        (
            lambda: signed(complete(builder()).add_extension(x509.DeltaCRLIndicator(1), critical=True)),
            "without critical extensions",
        ),
        (
            lambda: signed(
                builder()
                .add_extension(key_id(), critical=False)
                .add_extension(x509.CRLNumber(MAX_NUMBER + 1), critical=False)
            ),
            "CRL number: expected 0 to",
        ),
        (lambda: crl(now=NOW + timedelta(minutes=6)).der, "expected issued by"),
        (lambda: crl(now=NOW - LIFETIME).der, "expected the next one due after"),
        (lambda: signed(complete(builder(lifetime=timedelta(days=401)))), "expected a lifetime"),
        (
            lambda: signed(
                complete(builder()).add_revoked_certificate(entry().build()).add_revoked_certificate(entry().build())
            ),
            "expected each serial number once",
        ),
        (
            lambda: crl(revoked={1: Revocation(NOW + timedelta(hours=1), Reason.UNSPECIFIED)}).der,
            "expected 1 revoked before the list",
        ),
        (
            lambda: signed(
                complete(builder()).add_revoked_certificate(
                    entry().add_extension(x509.CRLReason(x509.ReasonFlags.ca_compromise), critical=False).build()
                )
            ),
            "expected one of",
        ),
        (
            lambda: signed(
                complete(builder()).add_revoked_certificate(
                    entry().add_extension(x509.CertificateIssuer([x509.DNSName("a")]), critical=True).build()
                )
            ),
            "expected no critical extension of an entry",
        ),
    ],
    ids=[
        "trailing",
        "issuer",
        "key id",
        "no extensions",
        "key",
        "hash",
        "no number",
        "delta",
        "large number",
        "early",
        "late",
        "long",
        "twice",
        "future entry",
        "reason",
        "critical entry",
    ],
)
def test_list_with_one_thing_wrong_is_refused(unverified: Callable[[], bytes], rule: str) -> None:
    """Each rule by itself."""
    with pytest.raises(CrlError, match=rule):
        verify_crl(unverified(), issuer=ISSUER, now=NOW)


def test_invalidity_date_of_an_entry_is_left_alone() -> None:
    """What is not critical and not known changes nothing."""
    made = entry().add_extension(x509.InvalidityDate(NOW), critical=False).build()
    verified = verify_crl(signed(complete(builder()).add_revoked_certificate(made)), issuer=ISSUER, now=NOW)
    assert verified.revoked == {5: Revocation(NOW, Reason.UNSPECIFIED)}


def test_list_names_its_issuer() -> None:
    """So that a file can be brought to where it belongs."""
    assert named_issuer(crl().der) == issuer_key_id(ISSUER)
    with pytest.raises(CrlError, match="expected the key id of its authority"):
        named_issuer(signed(builder()))


def test_next_list_may_add_and_release_a_hold() -> None:
    """Every other revocation stays."""
    held = next(serial for serial, found in REVOKED.items() if found.reason is Reason.CERTIFICATE_HOLD)
    revoked = {serial: found for serial, found in REVOKED.items() if serial != held}
    check_succession(crl(1), crl(2, revoked=revoked | {99: Revocation(NOW, Reason.SUPERSEDED)}))


@pytest.mark.parametrize(
    ("after", "rule"),
    [
        (lambda: crl(1), "expected above 1, found 1"),
        (lambda: crl(2, now=NOW - timedelta(minutes=6), revoked={}), "expected issued since"),
        (lambda: crl(2, revoked={}), "still revoked, found it missing"),
        (
            lambda: crl(2, revoked=REVOKED | {1: Revocation(NOW, Reason.CERTIFICATE_HOLD)}),
            "for ever, found it on hold",
        ),
        (
            lambda: crl(2, revoked=REVOKED | {2: Revocation(NOW, Reason.SUPERSEDED)}),
            r"expected serial number 2 revoked since .* \(key-compromise\), found .* \(superseded\)",
        ),
        (
            lambda: crl(2, revoked=REVOKED | {2: Revocation(NOW - LIFETIME, Reason.KEY_COMPROMISE)}),
            "expected serial number 2 revoked since",
        ),
    ],
)
def test_list_that_takes_something_back_is_refused(after: Callable[[], RevocationList], rule: str) -> None:
    """A signature is not enough: an older or shorter list is no successor."""
    with pytest.raises(CrlSuccessionError, match=rule):
        check_succession(crl(1), after())
