"""Update metadata through pki: signing with the service's keys, and the first metadata of the ceremony."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

from pki.catalog import load_catalog
from pki.manufacturers import trusted_manufacturers
from pki.metadata import (
    DELTAS_ROLE,
    DirectorSigner,
    add_signature,
    director_target,
    sign_snapshot,
    sign_targets,
    sign_timestamp,
)
from pki.roles import OnlineKey
from protocol.signing import Signer
from protocol.updates import DirectorDevice
from service.adapters.online_signers import OnlineSigners
from service.application.artifacts import TrustedKeys
from service.application.director import DirectedImage, SignedSet
from service.application.repository import Genesis, OnlineKeyError
from service.domain.errors import ServiceError


class GenesisError(ServiceError):
    """A file of the key ceremony is missing."""


class PkiMetadata:
    """Implements `RepositoryMetadata` and the `DirectorSigner` and `DirectorKeys` ports.

    Args:
        signers: the service's keys.
    """

    def __init__(self, signers: OnlineSigners) -> None:
        self._signers = signers
        self._director = DirectorSigner(signers.held(OnlineKey.DIRECTOR)[-1])  # until `follow` says which

    @classmethod
    def load(cls, data_dir: Path) -> "PkiMetadata":
        """Take the keys from the service's folder.

        Raises:
            PkiError: a key is missing or cannot be used.
        """
        return cls(OnlineSigners(data_dir))

    def sign_snapshot(self, files: Mapping[str, MetaFile], *, root: Root, version: int, expires: datetime) -> bytes:
        """See `RepositoryMetadata.sign_snapshot`."""
        signers = self._signers.named(OnlineKey.SNAPSHOT, root.roles[Snapshot.type].keyids)
        signed = sign_snapshot(files, signers[0], version=version, expires=expires)
        return _with_signatures(signed, signers[1:])

    def sign_timestamp(
        self, snapshot: bytes, *, root: Root, snapshot_version: int, version: int, expires: datetime
    ) -> bytes:
        """See `RepositoryMetadata.sign_timestamp`."""
        signers = self._signers.named(OnlineKey.TIMESTAMP, root.roles[Timestamp.type].keyids)
        signed = sign_timestamp(
            snapshot, signers[0], snapshot_version=snapshot_version, version=version, expires=expires
        )
        return _with_signatures(signed, signers[1:])

    def sign_deltas(
        self, targets: Sequence[TargetFile], *, delegator: Targets, version: int, expires: datetime
    ) -> bytes:
        """See `RepositoryMetadata.sign_deltas`."""
        signers = self._signers.named(OnlineKey.SNAPSHOT, delegator.get_delegated_role(DELTAS_ROLE).keyids)
        signed = sign_targets(targets, signers[0], version=version, expires=expires)
        return _with_signatures(signed, signers[1:])

    def follow(self, root: Root) -> None:
        """See the `DirectorSigner` port."""
        self._director = DirectorSigner(self._director_key(root))

    def check_director(self, root: Root) -> None:
        """See the `DirectorKeys` port."""
        self._director_key(root)

    def _director_key(self, root: Root) -> Signer:
        roles = [root.roles[role] for role in (Timestamp.type, Snapshot.type, Targets.type)]
        shared = [key_id for key_id in roles[0].keyids if all(key_id in role.keyids for role in roles)]
        if any(role.threshold > 1 for role in roles):
            raise OnlineKeyError("Director's root: expected a threshold of 1 for its online roles, found a higher one")
        return self._signers.named(OnlineKey.DIRECTOR, shared)[0]

    def sign_director_set(
        self,
        device: DirectorDevice,
        images: Sequence[DirectedImage],
        *,
        release: str,
        version: int,
        expires: datetime,
    ) -> SignedSet:
        """See the `DirectorSigner` port."""
        targets = [director_target(_target(directed), slot=directed.slot, release=release) for directed in images]
        signed = self._director.sign_set(device, targets, version=version, expires=expires)
        return SignedSet(signed.targets, signed.snapshot, signed.timestamp)


def load_genesis(data_dir: Path) -> Genesis:
    """Read the ceremony's first metadata.

    Raises:
        GenesisError: a file is missing.
    """
    folder = data_dir / "genesis"
    return Genesis(
        director_root=_read(folder / "director.root.json"),
        image_root=_read(folder / "image.root.json"),
        image_targets=_read(folder / "image.targets.json"),
    )


def load_trusted_keys(data_dir: Path) -> TrustedKeys:
    """Read whose signatures make an artifact acceptable, from genesis/catalog.json and the trusted manufacturers.

    Raises:
        CatalogError: the file is missing or malformed.
        ManufacturerError: the list of manufacturers is not by the catalog's root key.
    """
    catalog = load_catalog(data_dir / "genesis" / "catalog.json")
    makers = [manufacturer.system_key for manufacturer in trusted_manufacturers(data_dir)]
    return TrustedKeys(package=catalog.package_keys, system=[*catalog.system_keys, *makers], golden=catalog.golden_keys)


def _with_signatures(signed: bytes, signers: Iterable[Signer]) -> bytes:
    for signer in signers:
        signed = add_signature(signed, signer)
    return signed


def _target(directed: DirectedImage) -> TargetFile:
    image = directed.image
    custom = {"custom": image.custom.model_dump(mode="json")}
    return TargetFile(image.length, {"sha256": image.sha256}, image.path, custom)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GenesisError(f"genesis: expected {path.name}, found: {error.strerror}; run the ceremony") from error
