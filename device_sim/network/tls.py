"""TLS contexts: the service's certificate is verified against the voucher's root, and its host name is checked.

TLS reads the machine's own clock to judge validity times; no port can give it another.
"""

import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from device_sim.hardware.root_of_trust import load_client_identity
from protocol.signing import SoftwareSigner


@dataclass(frozen=True, slots=True)
class Credential:
    """An operational certificate chain and its key.

    Attributes:
        key: of the leaf.
        chain: PEM, leaf first.
    """

    key: SoftwareSigner
    chain: bytes

    @property
    def leaf(self) -> x509.Certificate:
        """The certificate of the key."""
        return x509.load_pem_x509_certificate(self.chain)

    def to_pem(self) -> bytes:
        """Return key and chain for secure storage."""
        key = self.key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self.chain


def client_context(tls_root: bytes) -> ssl.SSLContext:
    """Return a client's context that trusts one root and shows no certificate yet.

    Args:
        tls_root: DER certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    context.load_verify_locations(cadata=tls_root)
    return context


def show_credential(context: ssl.SSLContext, credential: Credential) -> None:
    """Make a context show a credential from its next handshake on."""
    load_client_identity(context, credential.key, credential.chain)
