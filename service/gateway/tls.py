"""TLS of the gateway: client certificates required, only the LDevID issuers trusted."""

import ssl
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from service.application.messaging import RefusalReason

# OpenSSL's verification results (x509_vfy.h): X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED.
_VERIFY_REASONS = {9: RefusalReason.NOT_YET_VALID, 10: RefusalReason.EXPIRED}


def server_context(certificate_file: Path, key_file: Path, *, issuers: Sequence[x509.Certificate]) -> ssl.SSLContext:
    """Make the listener's context.

    TLS 1.2 is the minimum because azure-iot-device speaks nothing newer; 1.3 is preferred. The LDevID issuers
    are trust anchors themselves (partial chain), so that the root, and with it the factory's IDevID branch, is
    not trusted here.

    Args:
        certificate_file: The gateway's certificate chain, PEM.
        key_file: Its private key, PEM.
        issuers: The LDevID issuing certificates.

    Raises:
        OSError: A file cannot be read or is not PEM (`ssl.SSLError`).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_3
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")  # of TLS 1.2: forward secret and authenticated
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.num_tickets = 1  # OpenSSL makes two; each connection leaves one for the next, and making one costs
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    context.load_cert_chain(certificate_file, key_file)
    trust(context, issuers)
    return context


def trust(context: ssl.SSLContext, issuers: Sequence[x509.Certificate]) -> None:
    """Accept certificates by further issuers from the next handshake on.

    Those that were trusted before stay so here: OpenSSL's store only grows. Admission refuses what is trusted no more.
    """
    context.load_verify_locations(cadata=b"".join(issuer.public_bytes(Encoding.DER) for issuer in issuers))


def handshake_refusal(error: OSError) -> RefusalReason:
    """Name the rule that a client broke whose handshake failed with this error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_REASONS.get(error.verify_code, RefusalReason.FOREIGN_CERTIFICATE)
    if isinstance(error, ssl.SSLError) and error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return RefusalReason.NO_CERTIFICATE
    return RefusalReason.TLS_HANDSHAKE
