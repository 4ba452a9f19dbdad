"""The offline authorities whose revocation lists the service publishes, and the OCSP responder, from its folder."""

from collections.abc import Mapping
from pathlib import Path

from cryptography import x509

from pki.ocsp import OcspResponder
from pki.online import in_force, load_certificate, online_keys
from pki.roles import OfflineKey, OnlineKey

OFFLINE_ISSUERS = (OfflineKey.ROOT, OfflineKey.FACTORY, OfflineKey.SERVER_CA)


def load_issuers(data_dir: Path) -> Mapping[str, x509.Certificate]:
    """Return the certificates of the offline authorities, by the names of their keys.

    Raises:
        ChainError: one is missing or malformed; run the ceremony.
    """
    return {role.value: load_certificate(data_dir / "certificates" / f"{role}.pem") for role in OFFLINE_ISSUERS}


def load_first_crls(data_dir: Path) -> Mapping[str, bytes]:
    """Return the lists that the ceremony signed, unverified, by the names of their authorities' keys."""
    files = {role.value: data_dir / "genesis" / f"{role}.crl" for role in OFFLINE_ISSUERS}
    return {name: file.read_bytes() for name, file in files.items() if file.exists()}


def load_responder(data_dir: Path) -> OcspResponder:
    """Return the responder for birth certificates.

    Raises:
        PkiError: its key or certificate is missing, or the factory authority did not delegate it.
    """
    certificates, name = data_dir / "certificates", in_force(data_dir, OnlineKey.OCSP)
    return OcspResponder(
        load_certificate(certificates / f"{OfflineKey.FACTORY}.pem"),
        load_certificate(certificates / f"{name}.pem"),
        online_keys(data_dir).load(name),
    )
