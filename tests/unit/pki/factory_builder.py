"""A factory CA whose key the test holds, for lists and answers that it signs."""

from pki import profiles
from pki.authority import CertificateAuthority, self_signed_root
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import NOW


def factory_authority(signer: SoftwareSigner) -> CertificateAuthority:
    root = self_signed_root(profiles.root_ca("demo", now=NOW), SoftwareSigner.generate())
    return CertificateAuthority([root.issue(profiles.factory_ca("demo", now=NOW), signer.public_key)], signer)
