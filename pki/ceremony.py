"""The key ceremony: offline keys and authorities on the operator's side, and the service's keys signed by them.

Every file is made once and none is overwritten, so that a ceremony that was interrupted goes on where it stopped.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem, self_signed_root
from pki.files import PUBLIC_MODE, create_file
from pki.keystore import KeyStore
from pki.online import OfflineAuthority, load_certificate, sign_online_keys
from pki.roles import OfflineKey
from protocol.signing import Signer

REPOSITORY_COPIES = {
    "image.root.json": "1.root.json",
    "image.targets.json": "1.targets.json",
    "director.root.json": "director.root.json",
    "catalog.json": "catalog.json",
}


def hold_ceremony(
    operator_dir: Path,
    service_dir: Path,
    *,
    keys: KeyStore,
    catalog_name: str,
    hostnames: Sequence[str],
    now: datetime,
) -> None:
    """Make the offline keys and authorities, and sign what the service asks for.

    Args:
        operator_dir: offline; gets certificates/ and the first working copy of repository/.
        service_dir: holds the service's CSRs.
        keys: the operator's key store.
        catalog_name: of the tenant.
        hostnames: DNS names and IP addresses of the service besides loopback.
        now: UTC, aware.

    Raises:
        KeyStoreError: a key cannot be made or used.
        CsrError: a CSR is missing or breaks a rule.
        ProfileError: a host name is none.
    """
    signers = {role: keys.load(role) if keys.holds(role) else keys.generate(role) for role in OfflineKey}
    root = _root(operator_dir, signers[OfflineKey.ROOT], catalog_name=catalog_name, now=now)
    folder = operator_dir / "certificates"
    factory = profiles.factory_ca(catalog_name, now=now)
    server_ca = profiles.server_ca(catalog_name, [*profiles.LOOPBACK_HOSTNAMES, *hostnames], now=now)
    authority = OfflineAuthority(
        root=root,
        root_signer=signers[OfflineKey.ROOT],
        targets=signers[OfflineKey.IMAGE_TARGETS],
        factory=_below(root, folder / "factory.pem", factory, signer=signers[OfflineKey.FACTORY]),
        server_ca=_below(root, folder / "server-ca.pem", server_ca, signer=signers[OfflineKey.SERVER_CA]),
        package_key=signers[OfflineKey.PACKAGE].public_key,
        system_key=signers[OfflineKey.ROM].public_key,
        golden_key=signers[OfflineKey.GOLDEN].public_key,
    )
    package, package_key = profiles.package_signing(catalog_name, now=now), signers[OfflineKey.PACKAGE].public_key
    if not (folder / "package.pem").exists():
        _create(folder / "package.pem", chain_pem([root.issue(package, package_key)]))
    sign_online_keys(service_dir, authority, catalog_name=catalog_name, hostnames=hostnames, now=now)
    _copy_genesis(service_dir / "genesis", operator_dir / "repository")


def factory_authority(operator_dir: Path, keys: KeyStore) -> CertificateAuthority:
    """Return the authority that issues IDevIDs.

    Raises:
        KeyStoreError: its key is missing or cannot be used.
        ChainError: its certificate is missing, malformed, or of another key.
    """
    certificate = load_certificate(operator_dir / "certificates" / "factory.pem")
    return CertificateAuthority([certificate], keys.load(OfflineKey.FACTORY))


def root_authority(operator_dir: Path, keys: KeyStore) -> CertificateAuthority:
    """Return the root, which issues operators' client certificates itself. Raises as `factory_authority`."""
    certificate = load_certificate(operator_dir / "certificates" / "root.pem")
    return CertificateAuthority([certificate], keys.load(OfflineKey.ROOT))


def _root(operator_dir: Path, signer: Signer, *, catalog_name: str, now: datetime) -> CertificateAuthority:
    path = operator_dir / "certificates" / "root.pem"
    if path.exists():
        return CertificateAuthority([load_certificate(path)], signer)
    root = self_signed_root(profiles.root_ca(catalog_name, now=now), signer)
    _create(path, chain_pem([root.certificate]))
    return root


def _below(
    root: CertificateAuthority, path: Path, profile: profiles.Profile, *, signer: Signer
) -> CertificateAuthority:
    if not path.exists():
        _create(path, chain_pem([root.issue(profile, signer.public_key)]))
    return CertificateAuthority([load_certificate(path)], signer)


def _copy_genesis(genesis: Path, repository: Path) -> None:
    for source, name in REPOSITORY_COPIES.items():
        if not (repository / name).exists():
            _create(repository / name, (genesis / source).read_bytes())


def _create(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    create_file(path, content, mode=PUBLIC_MODE)
