"""The offline authorities whose revocation lists the service publishes, and the OCSP responder, from its folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography import x509

from pki.manufacturers import Manufacturer
from pki.ocsp import OcspResponder
from pki.online import in_force, load_certificate, online_keys
from pki.roles import OfflineKey, OnlineKey

OFFLINE_ISSUERS = (OfflineKey.ROOT, OfflineKey.FACTORY, OfflineKey.SERVER_CA)


def load_issuers(data_dir: Path, manufacturers: Sequence[Manufacturer] = ()) -> Mapping[str, x509.Certificate]:
    """Return the certificates of the authorities whose lists are taken, by name: of the key, or of the manufacturer.

    Raises:
        ChainError: one is missing or malformed; run the ceremony.
    """
    own = {role.value: load_certificate(data_dir / "certificates" / f"{role}.pem") for role in OFFLINE_ISSUERS}
    factories = {f"{each.name} {each.fingerprint[:8]}": each.factory_certificate for each in manufacturers}
    return own | {name: factory for name, factory in factories.items() if _has_key_id(factory)}


def _has_key_id(factory: x509.Certificate) -> bool:
    """Whether a list can be known as this authority's (RFC 5280 §4.2.1.2)."""
    return any(isinstance(extension.value, x509.SubjectKeyIdentifier) for extension in factory.extensions)


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
