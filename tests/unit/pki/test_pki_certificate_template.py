"""Certificates from templates are, byte for byte, those of cryptography's builder."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pki import profiles
from pki.authority import CertificateAuthority, extensions_of, self_signed_root
from pki.certificate_template import CertificateTemplate
from pki.errors import ProfileError
from pki.profiles import Profile
from protocol.identity import Access, spki_der
from protocol.signing import SoftwareSigner, verify
from tests.unit.pki.pki_builder import NOW, Tree

TREE, KEY = Tree(), SoftwareSigner.generate()
LDEVID = profiles.ldevid(TREE.device_id, now=NOW)
END_OF_SERIAL_NUMBERS = 1 << 159
PROFILES: Mapping[str, Profile] = {
    "root": profiles.root_ca("demo", now=NOW),
    "issuing": profiles.issuing_ca("demo", now=NOW),
    "factory": profiles.factory_ca("Müller & Söhne", now=NOW),
    "server-ca": profiles.server_ca("demo", ["fleet.example", "192.0.2.0/24", "::1"], now=NOW),
    "server": profiles.server(["fleet.example", "127.0.0.1", "::1"], now=NOW),
    "server of many hosts": profiles.server([f"host-{number}.example" for number in range(4000)], now=NOW),
    "ocsp": profiles.ocsp_responder("demo", now=NOW),
    "package": profiles.package_signing("demo", now=NOW),
    "operator": profiles.operator_client("ada", now=NOW),
    "possession": profiles.possession_proof("nonce", now=NOW),
    "idevid": profiles.idevid(TREE.device_id, now=NOW),
    "ldevid": LDEVID,
    "ldevid for updates": profiles.ldevid(TREE.device_id, now=NOW, access=Access.UPDATE_ONLY),
    "last end of two digits": replace(LDEVID, not_after=datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC)),
    "first end of four digits": replace(LDEVID, not_after=datetime(2050, 1, 1, tzinfo=UTC)),
    "first begin of all": replace(LDEVID, not_before=datetime(1950, 1, 1, tzinfo=UTC)),
}


def built(
    authority: CertificateAuthority | None, profile: Profile, *, serial_number: int, publish_url: str | None
) -> x509.Certificate:
    """The same certificate by cryptography's builder; None for a root, which issues its own."""
    issuer = None if authority is None else authority.certificate
    builder = (
        x509.CertificateBuilder()
        .issuer_name(profile.subject if issuer is None else issuer.subject)
        .subject_name(profile.subject)
        .public_key(KEY.public_key)
        .serial_number(serial_number)
        .not_valid_before(profile.not_before)
        .not_valid_after(profile.not_after)
    )
    for extension in extensions_of(profile, KEY.public_key, issuer=issuer, publish_url=publish_url):
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(KEY.private_key, hashes.SHA256())


def authority_of(*serial_numbers: int, publish_url: str | None = None) -> CertificateAuthority:
    certificate = TREE.root.issue(profiles.issuing_ca("demo", now=NOW), KEY.public_key)
    given = iter(serial_numbers).__next__
    return CertificateAuthority([certificate], KEY, serial_numbers=given, publish_url=publish_url)


@pytest.mark.parametrize("publish_url", [None, "http://fleet.example:8444"])
@pytest.mark.parametrize("name", PROFILES)
def test_template_gives_the_bytes_of_the_builder(name: str, publish_url: str | None) -> None:
    """Every profile, twice, because the second certificate finds the template made."""
    authority, profile = authority_of(1, 2, publish_url=publish_url), PROFILES[name]
    for serial_number in (1, 2):
        issued = authority.issue(profile, KEY.public_key)
        expected = built(authority, profile, serial_number=serial_number, publish_url=publish_url)
        assert issued.tbs_certificate_bytes == expected.tbs_certificate_bytes
        assert issued.signature_algorithm_oid == expected.signature_algorithm_oid
        verify(KEY.public_key, issued.signature, issued.tbs_certificate_bytes)


def test_root_is_that_of_the_builder() -> None:
    """It has no issuer above it."""
    profile = PROFILES["root"]
    root = self_signed_root(profile, KEY, serial_numbers=lambda: 7).certificate
    expected = built(None, profile, serial_number=7, publish_url=None)
    assert root.tbs_certificate_bytes == expected.tbs_certificate_bytes
    root.verify_directly_issued_by(root)


@pytest.mark.parametrize("serial_number", [1, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, END_OF_SERIAL_NUMBERS - 1])
def test_serial_number_is_encoded_as_by_the_builder(serial_number: int) -> None:
    """Positive, in as few octets as it needs."""
    authority = authority_of(serial_number)
    issued = authority.issue(LDEVID, KEY.public_key)
    expected = built(authority, LDEVID, serial_number=serial_number, publish_url=None)
    assert issued.tbs_certificate_bytes == expected.tbs_certificate_bytes


@pytest.mark.parametrize("serial_number", [-1, 0, END_OF_SERIAL_NUMBERS])
def test_serial_number_that_no_certificate_can_have_is_refused(serial_number: int) -> None:
    """RFC 5280 §4.1.2.2."""
    with pytest.raises(ProfileError, match="serial number: expected a positive one of at most 20 octets"):
        authority_of(serial_number).issue(LDEVID, KEY.public_key)


@pytest.mark.parametrize(
    ("not_before", "not_after"),
    [(NOW, NOW - timedelta(seconds=1)), (datetime(1949, 12, 31, 23, 59, 59, tzinfo=UTC), NOW)],
)
def test_validity_that_no_certificate_can_have_is_refused(not_before: datetime, not_after: datetime) -> None:
    """The end before the begin; a year that X.509 cannot say."""
    profile = replace(LDEVID, not_before=not_before, not_after=not_after)
    with pytest.raises(ProfileError, match="validity: expected an end after a begin in 1950 or later, found "):
        authority_of(1).issue(profile, KEY.public_key)


@pytest.mark.parametrize(
    "not_after", [NOW + timedelta(days=1, microseconds=1), datetime(2030, 1, 1, tzinfo=timezone(timedelta(hours=1)))]
)
def test_certificate_that_would_say_another_validity_is_refused(not_after: datetime) -> None:
    """A profile has whole seconds of UTC; what was made is read before anybody gets it."""
    with pytest.raises(ProfileError, match=r"validity: expected 2026-.* to 20.*, found 2026-.* to 20"):
        authority_of(1).issue(replace(LDEVID, not_after=not_after), KEY.public_key)


@pytest.mark.parametrize("critical", [False, True])
@pytest.mark.parametrize("oid", ["0.9.2342", "1.39.0", "2.47.127.128.16383.16384.2097151.2097152"])
def test_type_of_an_extension_is_encoded_as_by_the_builder(oid: str, *, critical: bool) -> None:
    """Numbers of one octet and of more."""
    value = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x04\x01x")
    extension = x509.Extension[x509.ExtensionType](value.oid, critical, value)
    template = CertificateTemplate(TREE.root.certificate.subject, [extension])
    made = template.issue(LDEVID, spki_der(KEY.public_key), own_extensions=(), serial_number=1, signer=KEY)
    assert list(x509.load_der_x509_certificate(made.der).extensions) == [extension]


def test_subject_key_id_is_that_of_cryptography() -> None:
    """RFC 5280 §4.2.1.2, the first method."""
    found = authority_of(1).issue(LDEVID, KEY.public_key).extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    assert found.value == x509.SubjectKeyIdentifier.from_public_key(KEY.public_key)
