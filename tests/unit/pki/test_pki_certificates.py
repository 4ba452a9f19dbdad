"""Certificates: what each profile holds, and that any signer can issue them."""

from copy import copy, deepcopy
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem, publish_url_in
from pki.errors import ChainError, KeyStoreError, ProfileError
from pki.signer_key import SignerKey
from protocol.identity import Access, access_in, certificate_uri, device_id_in
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import NOW, OpaqueSigner, Tree


def _certificates(tree: Tree) -> dict[str, x509.Certificate]:
    key = SoftwareSigner.generate().public_key
    return {
        "root": tree.root.certificate,
        "factory": tree.factory.certificate,
        "issuing": tree.issuing.certificate,
        "idevid": tree.idevid(),
        "ldevid": tree.ldevid(),
        "server": tree.root.issue(profiles.server(["fleet.example", "::1"], now=NOW), key),
        "operator": tree.issuing.issue(profiles.operator_client("ada", now=NOW), key),
    }


def test_every_certificate_is_clean_by_rfc_5280() -> None:
    """Version 3, serial of 64 to 159 bits, critical basic constraints and key usage, key identifiers that chain."""
    tree = Tree()
    certificates = _certificates(tree)
    assert len({certificate.serial_number for certificate in certificates.values()}) == len(certificates)
    for name, certificate in certificates.items():
        assert certificate.version == x509.Version.v3
        assert 1 << 64 <= certificate.serial_number < 1 << 159
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert constraints.critical
        assert usage.critical
        is_authority = name in {"root", "factory", "issuing"}
        assert constraints.value.ca is is_authority
        assert usage.value.key_cert_sign is usage.value.crl_sign is is_authority
        assert usage.value.digital_signature is not is_authority
        subject_key = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert subject_key == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())


def test_authority_key_identifier_names_the_issuer() -> None:
    """Of every certificate but the root."""
    tree = Tree()
    for certificate, issuer in ((tree.ldevid(), tree.issuing), (tree.factory.certificate, tree.root)):
        found = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        expected = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert found.key_identifier == expected.digest


def test_path_lengths_allow_one_level_of_authorities() -> None:
    """Root 1, authorities 0, end entities none."""
    lengths = {
        name: certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length
        for name, certificate in _certificates(Tree()).items()
    }
    assert lengths == {
        "root": 1, "factory": 0, "issuing": 0, "idevid": None, "ldevid": None, "server": None, "operator": None,
    }  # fmt: skip


def test_ldevid_has_an_empty_subject_and_a_critical_uri() -> None:
    """RFC 5280 §4.2.1.6: an empty subject makes the alternative name critical; the id fits no common name."""
    tree = Tree()
    ldevid = tree.ldevid()
    names = ldevid.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert ldevid.subject.rdns == []
    assert names.critical
    assert device_id_in(ldevid) == tree.device_id
    assert ldevid.not_valid_after_utc == NOW + timedelta(hours=24)
    assert ldevid.not_valid_before_utc == NOW - profiles.CLOCK_SKEW


def test_idevid_never_expires_and_names_the_device() -> None:
    """IEEE 802.1AR: 99991231235959Z, a subject with a serial number."""
    tree = Tree()
    idevid = tree.idevid()
    names = idevid.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert idevid.not_valid_after_utc == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert idevid.subject.rfc4514_string() == f"2.5.4.5={tree.device_id[:64]}"
    assert not names.critical
    assert device_id_in(idevid) == tree.device_id


@pytest.mark.parametrize(
    ("name", "purpose"),
    [
        ("server", ExtendedKeyUsageOID.SERVER_AUTH),
        ("idevid", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("ldevid", ExtendedKeyUsageOID.CLIENT_AUTH),
        ("operator", ExtendedKeyUsageOID.CLIENT_AUTH),
    ],
)
def test_end_entity_has_one_purpose(name: str, purpose: x509.ObjectIdentifier) -> None:
    """A server's certificate is no client's, and the other way round."""
    purposes = _certificates(Tree())[name].extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [purpose]


def test_server_names_hosts_and_addresses() -> None:
    """A host name becomes a DNS name, an address an IP address."""
    certificate = _certificates(Tree())["server"]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fleet.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["::1"]


def test_operator_is_named_by_uri() -> None:
    """An operator's certificate cannot be taken for a device's."""
    assert certificate_uri(_certificates(Tree())["operator"]) == "urn:tinyfleet:operator:ada"


@pytest.mark.parametrize("name", ["", "two words", "ümlaut.example", "-dash", "a" * 254, "*.example", "x..y", "a\n"])
def test_host_name_that_is_none_is_refused(name: str) -> None:
    """A wild card or a typo never reaches a certificate."""
    with pytest.raises(ProfileError, match="host name: expected a DNS name or an IP address"):
        profiles.server([name], now=NOW)


def test_times_are_whole_seconds() -> None:
    """X.509 has no fractions of a second."""
    profile = profiles.ldevid(Tree().device_id, now=NOW + timedelta(microseconds=999_999))
    assert (profile.not_before.microsecond, profile.not_after) == (0, NOW + timedelta(hours=24))


def test_authority_refuses_the_key_of_another_certificate() -> None:
    """A mixed-up key is found at start, not at the first handshake."""
    tree = Tree()
    with pytest.raises(ChainError, match="expected the private key of its certificate"):
        CertificateAuthority([tree.issuing.certificate], SoftwareSigner.generate())


def test_chain_file_has_the_leaf_first() -> None:
    """Leaf, then the authority."""
    tree = Tree()
    leaf = tree.ldevid()
    assert tree.issuing.chain_pem(leaf) == chain_pem([leaf, tree.issuing.certificate])
    loaded = x509.load_pem_x509_certificates(tree.issuing.chain_pem(leaf))
    assert loaded == [leaf, tree.issuing.certificate]


def test_serial_numbers_come_from_the_given_source() -> None:
    """A test or a log may choose them."""
    tree, signer = Tree(), OpaqueSigner()
    certificate = tree.root.issue(profiles.issuing_ca("demo", now=NOW), signer.public_key)
    authority = CertificateAuthority([certificate], signer, serial_numbers=iter([7, 8]).__next__)
    issued = [authority.issue(profiles.ldevid(tree.device_id, now=NOW), tree.operational.public_key) for _ in "ab"]
    assert [certificate.serial_number for certificate in issued] == [7, 8]


def test_certificate_says_where_its_revocation_is_published() -> None:
    """IDevID: list and responder; server: list; LDevID, operator and responder: nothing, or that nobody need ask."""
    tree, signer, key = Tree(), OpaqueSigner(), SoftwareSigner.generate().public_key
    certificate = tree.root.issue(profiles.factory_ca("demo", now=NOW), signer.public_key)
    authority = CertificateAuthority([certificate], signer, publish_url="http://fleet.example")
    asked = {
        "idevid": profiles.idevid(tree.device_id, now=NOW),
        "ldevid": profiles.ldevid(tree.device_id, now=NOW),
        "server": profiles.server(["fleet.example"], now=NOW),
        "ocsp": profiles.ocsp_responder("demo", now=NOW),
        "operator": profiles.operator_client("ada", now=NOW),
    }
    extensions = {name: authority.issue(profile, key).extensions for name, profile in asked.items()}
    kinds = (x509.CRLDistributionPoints, x509.AuthorityInformationAccess, x509.OCSPNoCheck)
    found = {
        name: [kind.__name__ for kind in kinds if any(isinstance(each.value, kind) for each in all_)]
        for name, all_ in extensions.items()
    }
    assert found == {
        "idevid": ["CRLDistributionPoints", "AuthorityInformationAccess"],
        "ldevid": [],
        "server": ["CRLDistributionPoints"],
        "ocsp": ["OCSPNoCheck"],
        "operator": [],
    }
    responder = extensions["idevid"].get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [each.access_location.value for each in responder] == ["http://fleet.example/pki/ocsp"]
    assert publish_url_in(authority.issue(asked["idevid"], key)) == "http://fleet.example"


@pytest.mark.parametrize("access", list(Access))
def test_ldevid_says_how_far_it_reaches(access: Access) -> None:
    """By exactly one certificate policy."""
    tree = Tree()
    profile = profiles.ldevid(tree.device_id, now=NOW, access=access)
    assert access_in(tree.issuing.issue(profile, tree.operational.public_key)) is access


def test_name_constraints_keep_the_authorities_apart() -> None:
    """Issuers of devices exclude every host; the server CA permits its own, and no URN."""
    tree = Tree()
    for authority in (tree.factory, tree.issuing):
        constraints = authority.certificate.extensions.get_extension_for_class(x509.NameConstraints)
        assert constraints.critical
        assert constraints.value == x509.NameConstraints(None, profiles.EVERY_HOST)
    permitted = profiles.only_hosts(["fleet.example", "10.0.0.0/8"]).permitted_subtrees or []
    assert [str(name.value) for name in permitted] == ["fleet.example", "10.0.0.0/8", "tinyfleet.invalid"]


def test_signer_key_signs_and_gives_nothing_away() -> None:
    """Everything that would read or use the private key otherwise is refused."""
    signer = OpaqueSigner()
    key = SignerKey(signer)
    signer.public_key.verify(key.sign(b"data", ec.ECDSA(hashes.SHA256())), b"data", ec.ECDSA(hashes.SHA256()))
    assert (key.key_size, key.curve.name, key.public_key()) == (256, "secp256r1", signer.public_key)
    assert copy(key) is deepcopy(key) is key
    with pytest.raises(KeyStoreError, match="expected ECDSA over SHA-256"):
        key.sign(b"data", ec.ECDSA(hashes.SHA384()))
    with pytest.raises(KeyStoreError, match="found a request for its private bytes"):
        key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(KeyStoreError, match="found a request for its private number"):
        key.private_numbers()
    with pytest.raises(KeyStoreError, match="found a request for key agreement"):
        key.exchange(ec.ECDH(), signer.public_key)


def test_authority_knows_whether_its_key_is_in_memory() -> None:
    """What is in a token is waited for; callers must not hold everybody else up meanwhile."""
    signer, tree = SoftwareSigner.generate(), Tree()
    certificate = tree.root.issue(profiles.issuing_ca("demo", now=NOW), signer.public_key)
    assert CertificateAuthority([certificate], signer).signs_here
    assert not tree.issuing.signs_here
