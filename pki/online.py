"""The service's folder: keys that it makes itself, and the certificates that it was given for them.

    keys/{role}.pem, csr/{role}.pem   made here (`request_online_keys`), the request signed elsewhere
    keys/log.key, csr/log.note        the transparency log's (pki/log_key.py)
    certificates/{role}.pem           signed by the ceremony, which reads requests alone
    …/{role}-2.pem, …                 later generations: a renewal is a new key, a new request and a new certificate

Every file is made once: a run that was interrupted goes on where it stopped, and the newest certificate is in force
from the moment it is there.
"""

import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pki.authority import CertificateAuthority
from pki.chains import load_chain
from pki.csr import make_csr, verify_service_csr
from pki.errors import ChainError, CsrError, EarlierFolderError
from pki.files import PUBLIC_MODE, create_file
from pki.log_key import request_log_key
from pki.roles import OfflineKey, OnlineKey
from pki.stores import KeyStores, open_keys
from protocol.identity import X509_ERRORS

ROOT_METADATA_LIFETIME = timedelta(days=365)
TARGETS_METADATA_LIFETIME = timedelta(days=365)
RENEWABLE = (OnlineKey.SERVER, OnlineKey.OCSP)
METADATA_ROLES = (OnlineKey.DIRECTOR, OnlineKey.SNAPSHOT, OnlineKey.TIMESTAMP)


def online_keys(service_dir: Path) -> KeyStores:
    """Return the store of the service's own keys: unencrypted, because the service starts by itself."""
    return open_keys(service_dir, passphrase=None)


def request_online_keys(service_dir: Path) -> None:
    """Make an online key and its CSR for each role that has no CSR yet, and the log's key and its request.

    A CSR without a key is left alone: it has come from the service's machine to the operator's.

    Raises:
        KeyStoreError: a key that is there cannot be used.
    """
    for role in OnlineKey:
        _request(service_dir, role)
    request_log_key(service_dir)


def request_again(service_dir: Path, role: OnlineKey) -> str:
    """Make the next generation of a key and its CSR, or find the one that waits for its certificate.

    Returns:
        its name, such as `server-2`.

    Raises:
        KeyStoreError: a key that is there cannot be used.
    """
    newest = generations(service_dir / "csr", role)[-1:]
    name = _following(newest[0]) if newest and _is_certified(service_dir, newest[0]) else (newest or [role.value])[0]
    _request(service_dir, name)
    return name


def request_metadata_key(service_dir: Path, role: OnlineKey) -> str:
    """Make the next generation of a key that signs update metadata, and the CSR by which the operator learns of it.

    It signs from when a root names it; until then, and after a root names it no more, it is not used.

    Args:
        service_dir: of the service.
        role: one of `METADATA_ROLES`.

    Returns:
        its name, such as `timestamp-2`.

    Raises:
        CsrError: the service has no key of this role yet.
        KeyStoreError: the key cannot be made.
    """
    newest = generations(service_dir / "csr", role)[-1:]
    if not newest:
        raise CsrError(f"{service_dir}: expected csr/{role}.pem of the key before, found none")
    name = _following(newest[0])
    _request(service_dir, name)
    return name


def requested_key(service_dir: Path, name: str) -> ec.EllipticCurvePublicKey:
    """Return the key that the service asks a certificate for.

    Args:
        service_dir: holds csr/.
        name: of the role or a later generation, which the request states as its common name.

    Raises:
        CsrError: the CSR is missing or breaks a rule.
    """
    path = service_dir / "csr" / f"{name}.pem"
    try:
        unverified_csr = path.read_bytes()
    except OSError as error:
        raise CsrError(f"CSR: expected the service's request in {path}, found: {error.strerror}") from error
    return verify_service_csr(unverified_csr, name)


def generations(folder: Path, role: str) -> list[str]:
    """Return the names of a role's files in a folder, oldest first: `server`, `server-2` and so on."""
    pattern = re.compile(rf"{re.escape(role)}(?:-([0-9]{{1,4}}))?\.pem")
    found = [
        (int(match[1] or 1), path.stem) for path in folder.glob("*.pem") if (match := pattern.fullmatch(path.name))
    ]
    return [name for _, name in sorted(found)]


def in_force(service_dir: Path, role: OnlineKey) -> str:
    """Return the newest generation of a role that has its certificate; the role itself if none has."""
    return (generations(service_dir / "certificates", role) or [role.value])[-1]


def refuse_earlier_folder(service_dir: Path) -> None:
    """Refuse a folder that an earlier version made: before there was a server CA and an OCSP responder.

    Raises:
        EarlierFolderError: it says what to run.
    """
    certificates = service_dir / "certificates"
    missing = [name for name in (OfflineKey.SERVER_CA, OnlineKey.OCSP) if not (certificates / f"{name}.pem").exists()]
    if missing and (certificates / "server.pem").exists():
        raise EarlierFolderError(
            f"{certificates}: expected {' and '.join(missing)}, found a folder of an earlier version; run "
            "`tinyfleet pki request` here, and `tinyfleet pki ceremony FILE.yaml --adopt` where the offline keys are; "
            "no key changes"
        )


def issuing_authority(service_dir: Path) -> CertificateAuthority:
    """Return the authority that issues LDevIDs, from the service's folder.

    Raises:
        KeyStoreError: its key is missing or cannot be used.
        ChainError: its certificate is missing, malformed, or of another key.
    """
    certificate = load_certificate(service_dir / "certificates" / "issuing-ca.pem")
    return CertificateAuthority([certificate], online_keys(service_dir).load(OnlineKey.ISSUING_CA))


def load_certificate(path: Path) -> x509.Certificate:
    """Read the first certificate of a chain file.

    Raises:
        ChainError: the file is missing, holds no certificate, or one that can be read in part only.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ChainError(f"certificate: expected {path}, found: {error.strerror}") from error
    certificate = load_chain(content)[0]
    try:
        # cryptography reads these only now.
        _ = certificate.subject, certificate.issuer, certificate.extensions, certificate.public_key()
    except X509_ERRORS as error:
        raise ChainError(f"certificate: expected a whole one in {path}, found: {str(error)[:200]}") from error
    return certificate


def _request(service_dir: Path, name: str) -> None:
    path, keys = service_dir / "csr" / f"{name}.pem", online_keys(service_dir)
    if not path.exists():
        signer = keys.load(name) if keys.holds(name) else keys.generate(name)
        _create(path, partial(make_csr, signer, name))


def _create(path: Path, content: Callable[[], bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    create_file(path, content(), mode=PUBLIC_MODE)


def _is_certified(service_dir: Path, name: str) -> bool:
    return (service_dir / "certificates" / f"{name}.pem").exists()


def _following(name: str) -> str:
    match = re.fullmatch(r"(.*?)-([0-9]{1,4})", name)
    return f"{match[1]}-{int(match[2]) + 1}" if match else f"{name}-2"
