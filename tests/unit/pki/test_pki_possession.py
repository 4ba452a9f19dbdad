"""The certificate that proves possession of an issuing key."""

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from pki.chains import verify_idevid, verify_ldevid
from pki.errors import ChainError
from pki.profiles import POSSESSION_LIFETIME, POSSESSION_PURPOSE, possession_proof
from protocol.identity import IdentityError, access_in, certificate_uri
from tests.unit.pki.pki_builder import NOW, Tree, der


def test_proof_names_the_nonce_and_nothing_else() -> None:
    """Its one purpose is the proof, and it ends soon."""
    tree = Tree()
    leaf = tree.issuing.issue(possession_proof("n0nce", now=NOW), tree.operational.public_key)
    [name] = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "n0nce"
    assert leaf.not_valid_after_utc == NOW + POSSESSION_LIFETIME
    purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [POSSESSION_PURPOSE]
    with pytest.raises(IdentityError, match="subject alternative name"):
        certificate_uri(leaf)


def test_proof_passes_for_no_device() -> None:
    """Even for the nonce that is a device's URI: neither as a birth certificate nor as an operational one."""
    tree = Tree()
    leaf = tree.issuing.issue(possession_proof(f"urn:{tree.device_id[:50]}", now=NOW), tree.identity.public_key)
    root, ca = tree.root.certificate, tree.issuing.certificate
    with pytest.raises(ChainError, match="purpose"):
        verify_ldevid(der(leaf), issuing_cas=[ca], root=root, now=NOW)
    with pytest.raises(ChainError, match="authority of its kind"):
        verify_idevid(der(leaf), factory=tree.factory.certificate, root=root, now=NOW)
    with pytest.raises(IdentityError, match="certificate policies"):
        access_in(leaf)
