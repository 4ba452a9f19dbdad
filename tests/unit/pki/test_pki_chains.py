"""Device certificates against root and issuer: one thing wrong per case."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from pki import profiles
from pki.authority import chain_pem
from pki.chains import (
    MAX_CHAIN_BYTES,
    DeviceCertificate,
    find_issuer,
    issued_by,
    key_id,
    load_chain,
    verify_idevid,
    verify_ldevid,
)
from pki.errors import ChainError
from pki.profiles import Profile
from pki.signer_key import SignerKey
from tests.unit.pki.pki_builder import NOW, Tree, der

TREE = Tree()
ROOT = TREE.root.certificate


def _ldevid(unverified: bytes, tree: Tree = TREE, **changes: object) -> DeviceCertificate:
    arguments = {"issuing_cas": [tree.issuing.certificate], "root": tree.root.certificate, "now": NOW} | changes
    return verify_ldevid(unverified, **arguments)  # type: ignore[arg-type]


def _idevid(unverified: bytes) -> DeviceCertificate:
    return verify_idevid(unverified, factory=TREE.factory.certificate, root=ROOT, now=NOW)


def test_ldevid_is_verified_from_der_and_from_a_chain() -> None:
    """As TLS delivers the leaf, and as a file holds the chain."""
    leaf = TREE.ldevid()
    for unverified in (der(leaf), TREE.issuing.chain_pem(leaf)):
        verified = _ldevid(unverified)
        assert (verified.device_id, verified.leaf) == (TREE.device_id, leaf)
        assert verified.public_key == TREE.operational.public_key


def test_idevid_is_verified_and_names_its_own_key() -> None:
    """The device id is that of the identity key."""
    verified = _idevid(TREE.factory.chain_pem(TREE.idevid()))
    assert (verified.device_id, verified.public_key) == (TREE.device_id, TREE.identity.public_key)


def test_idevid_is_never_taken_for_an_ldevid() -> None:
    """Nor the other way round, although both chain to the same root."""
    with pytest.raises(ChainError, match="expected one by the authority of its kind"):
        _ldevid(der(TREE.idevid()))
    with pytest.raises(ChainError, match="expected one by the authority of its kind"):
        _idevid(der(TREE.ldevid()))


@pytest.mark.parametrize("offset", [-timedelta(hours=1), timedelta(hours=24, seconds=1)])
def test_ldevid_outside_its_validity_is_refused(offset: timedelta) -> None:
    """Expiry is revocation."""
    with pytest.raises(ChainError, match="expected a valid path to the root at"):
        _ldevid(der(TREE.ldevid()), now=NOW + offset)


def test_certificate_of_another_fleet_is_refused() -> None:
    """Same names, other keys."""
    with pytest.raises(ChainError, match="expected one by the authority of its kind"):
        _ldevid(der(Tree().ldevid()))


def test_authority_of_another_root_is_refused() -> None:
    """The issuer must chain to the trusted root."""
    with pytest.raises(ChainError, match="expected a valid path to the root"):
        _ldevid(der(TREE.ldevid()), root=Tree().root.certificate)


def test_expired_authority_is_refused() -> None:
    """A leaf outlives its issuer only on paper."""
    late = NOW + profiles.ISSUING_CA_LIFETIME + timedelta(days=1)
    leaf = TREE.ldevid(lifetime=profiles.ISSUING_CA_LIFETIME + timedelta(days=2))
    with pytest.raises(ChainError, match="expected a valid path to the root"):
        _ldevid(der(leaf), now=late)


def _issue(purpose: x509.ObjectIdentifier | None, *, name: x509.GeneralName, path_length: int | None = None) -> bytes:
    purposes = () if purpose is None else (purpose,)
    profile = Profile(x509.Name([]), (name,), path_length, purposes, NOW, NOW + timedelta(hours=1))
    return der(TREE.issuing.issue(profile, TREE.operational.public_key))


DEVICE_NAME = x509.UniformResourceIdentifier("urn:tinyfleet:device:" + TREE.device_id)


@pytest.mark.parametrize(
    ("unverified", "message"),
    [
        (_issue(ExtendedKeyUsageOID.SERVER_AUTH, name=DEVICE_NAME), "found another purpose"),
        (_issue(None, name=DEVICE_NAME), "expected a valid path"),
        (_issue(ExtendedKeyUsageOID.CLIENT_AUTH, name=DEVICE_NAME, path_length=0), "expected a valid path"),
        (_issue(ExtendedKeyUsageOID.CLIENT_AUTH, name=x509.DNSName("device.example")), "expected a valid path"),
        (_issue(ExtendedKeyUsageOID.CLIENT_AUTH, name=x509.RFC822Name("a@device.example")), "expected the SAN URI"),
        (
            _issue(ExtendedKeyUsageOID.CLIENT_AUTH, name=x509.UniformResourceIdentifier("urn:tinyfleet:operator:a")),
            "expected urn:tinyfleet:device:…",
        ),
    ],
)
def test_certificate_for_something_else_is_refused(unverified: bytes, message: str) -> None:
    """A server's, an authority's, an operator's or a nameless certificate of the right issuer."""
    with pytest.raises(ChainError, match=message):
        _ldevid(unverified)


def test_end_entity_that_claims_to_be_an_authority_is_refused() -> None:
    """The CA bit without the key usage."""
    key = SignerKey(TREE.issuing._signer)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(TREE.issuing.certificate.subject)
        .public_key(TREE.operational.public_key)
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(hours=1))
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([DEVICE_NAME]), critical=True)
    )
    with pytest.raises(ChainError, match="expected a valid path"):
        _ldevid(der(builder.sign(key, hashes.SHA256())))


def test_device_certificate_of_another_curve_is_refused() -> None:
    """P-256 alone, also where the issuer was careless."""
    key = ec.generate_private_key(ec.SECP384R1()).public_key()
    leaf = TREE.issuing.issue(profiles.ldevid(TREE.device_id, now=NOW), key)
    with pytest.raises(ChainError, match="expected a P-256 key"):
        _ldevid(der(leaf))


def test_idevid_that_names_another_device_is_refused() -> None:
    """The factory's word is not enough: the id must be that of the key."""
    other = Tree().device_id
    leaf = TREE.factory.issue(profiles.idevid(other, now=NOW), TREE.identity.public_key)
    with pytest.raises(ChainError, match="expected the device id of its own key"):
        _idevid(der(leaf))


def test_issued_by_tells_issuers_apart() -> None:
    """By name and signature."""
    assert issued_by(TREE.ldevid(), TREE.issuing.certificate)
    assert not issued_by(TREE.ldevid(), TREE.factory.certificate)
    assert not issued_by(TREE.ldevid(), Tree().issuing.certificate)


def test_oversize_and_overlong_chains_are_refused() -> None:
    """More bytes or certificates than a device ever has."""
    with pytest.raises(ChainError, match="expected at most 16384 bytes"):
        load_chain(bytes(MAX_CHAIN_BYTES + 1))
    with pytest.raises(ChainError, match="expected at most 4, found 5"):
        load_chain(chain_pem([ROOT] * 5))


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error(unverified: bytes) -> None:
    """No input raises anything but ChainError."""
    for candidate in (unverified, b"-----BEGIN CERTIFICATE-----\n" + unverified):
        with pytest.raises(ChainError):
            _ldevid(candidate)


LEAF = der(TREE.ldevid())


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")
@given(st.integers(min_value=0, max_value=len(LEAF) * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    """The signature covers everything; only its own encoding has bits that say nothing."""
    flipped = bytearray(LEAF)
    flipped[bit // 8] ^= 1 << (bit % 8)
    try:
        verified = _ldevid(bytes(flipped))
    except ChainError:
        return
    assert verified.leaf.tbs_certificate_bytes == _ldevid(LEAF).leaf.tbs_certificate_bytes


def test_issuer_is_found_by_name_and_key() -> None:
    """Two generations of an authority have one name; a certificate that names no key has no issuer."""
    other = Tree().issuing.certificate
    leaf, own = TREE.ldevid(), TREE.issuing.certificate
    assert other.subject == own.subject
    assert find_issuer(leaf, [other, own]) == own
    assert find_issuer(leaf, [other]) is None
    assert find_issuer(TREE.root.certificate, [TREE.root.certificate]) is None


def test_authority_without_a_key_identifier_is_refused() -> None:
    """Nothing could tell its generations apart."""
    with pytest.raises(ChainError, match="expected a subject key identifier"):
        key_id(without_key_identifier())


def without_key_identifier() -> x509.Certificate:
    own = TREE.issuing.certificate
    builder = x509.CertificateBuilder().subject_name(own.subject).issuer_name(own.subject).serial_number(1)
    builder = builder.public_key(TREE.operational.public_key).not_valid_before(NOW).not_valid_after(NOW)
    return builder.sign(TREE.operational.private_key, hashes.SHA256())
