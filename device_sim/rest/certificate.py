"""The server's certificate: made at each start for a key that lives as long as the server.

The client pins one certificate by file and compares its host header with it, so the name is the one it sends. The
certificate can sign no other. Its key is in a file for the moment that the TLS library reads it: in the folder of the
device, readable by its owner alone, and gone afterwards.
"""

import ipaddress
import ssl
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

SERVER_NAME = "*.devices.sphere.azure.local"  # what the client sends as its host header, to the letter
VALIDITY = timedelta(days=7)
_SKEW = timedelta(minutes=5)


def server_context(folder: Path, now: datetime) -> tuple[ssl.SSLContext, bytes]:
    """Make a key and its certificate.

    Args:
        folder: the device's.
        now: UTC, aware.

    Returns:
        What the server listens with, and the certificate, PEM.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    pem = _certificate(key, now).public_bytes(Encoding.PEM)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".rest-") as file:  # 0600
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + pem)
        file.flush()
        context.load_cert_chain(file.name)
    return context, pem


def _certificate(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tinyfleet simulated device")])
    names = [x509.DNSName(SERVER_NAME), x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(key, hashes.SHA256())
