"""Update metadata through pki: verifying what the operator signed, signing with the online keys."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Metadata, TargetFile, Targets

from pki import errors as pki
from pki.catalog import load_catalog
from pki.manufacturers import trusted_manufacturers
from pki.metadata import DirectorSigner, director_target, listed_file, sign_snapshot, sign_timestamp
from pki.online import online_keys
from pki.repository import verify_root, verify_targets
from pki.roles import OnlineKey
from protocol.signing import Signer
from protocol.updates import DirectorDevice
from service.application import repository as rules
from service.application.artifacts import TrustedKeys
from service.application.director import DirectedImage, SignedSet
from service.application.repository import Genesis, VerifiedRoot, VerifiedTargets
from service.domain.errors import ServiceError


class GenesisError(ServiceError):
    """A file of the key ceremony is missing."""


class PkiMetadata:
    """Implements `RepositoryMetadata` and the `DirectorSigner` port.

    Args:
        director, snapshot, timestamp: the online keys of those names.
    """

    def __init__(self, *, director: Signer, snapshot: Signer, timestamp: Signer) -> None:
        self._director = DirectorSigner(director)
        self._snapshot = snapshot
        self._timestamp = timestamp

    @classmethod
    def load(cls, data_dir: Path) -> "PkiMetadata":
        """Take the keys from the service's folder.

        Raises:
            PkiError: a key is missing or cannot be used.
        """
        keys = online_keys(data_dir)
        return cls(
            director=keys.load(OnlineKey.DIRECTOR),
            snapshot=keys.load(OnlineKey.SNAPSHOT),
            timestamp=keys.load(OnlineKey.TIMESTAMP),
        )

    def verify_root(self, unverified: bytes, *, now: datetime) -> VerifiedRoot:
        """See `RepositoryMetadata.verify_root`."""
        try:
            root = verify_root(unverified, now=now)
        except pki.RepositoryError as error:
            raise _refusal(error) from error
        return VerifiedRoot(unverified, root.version, root.expires)

    def verify_targets(
        self, unverified: bytes, *, root: bytes, now: datetime, version: int | None = None
    ) -> VerifiedTargets:
        """See `RepositoryMetadata.verify_targets`."""
        try:
            targets = verify_targets(unverified, root=verify_root(root, now=now), now=now, version=version)
        except pki.RepositoryError as error:
            raise _refusal(error) from error
        if targets.delegations is not None:
            raise rules.MetadataFormError("targets: expected no delegations, found some")
        return VerifiedTargets(unverified, targets.version, targets.expires, targets.targets)

    def targets_of(self, verified: bytes) -> Mapping[str, TargetFile]:
        """See `RepositoryMetadata.targets_of`."""
        return Metadata[Targets].from_bytes(verified).signed.targets

    def sign_snapshot(self, targets: bytes, *, targets_version: int, version: int, expires: datetime) -> bytes:
        """See `RepositoryMetadata.sign_snapshot`."""
        files = {"targets": listed_file(targets, version=targets_version)}
        return sign_snapshot(files, self._snapshot, version=version, expires=expires)

    def sign_timestamp(self, snapshot: bytes, *, snapshot_version: int, version: int, expires: datetime) -> bytes:
        """See `RepositoryMetadata.sign_timestamp`."""
        return sign_timestamp(
            snapshot, self._timestamp, snapshot_version=snapshot_version, version=version, expires=expires
        )

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


def _target(directed: DirectedImage) -> TargetFile:
    image = directed.image
    custom = {"custom": image.custom.model_dump(mode="json")}
    return TargetFile(image.length, {"sha256": image.sha256}, image.path, custom)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise GenesisError(f"genesis: expected {path.name}, found: {error.strerror}; run the ceremony") from error


def _refusal(error: pki.RepositoryError) -> ServiceError:
    refusals: Mapping[type[pki.RepositoryError], type[ServiceError]] = {
        pki.MetadataSignatureError: rules.MetadataSignatureRefusedError,
        pki.MetadataExpiredError: rules.MetadataExpiredError,
        pki.MetadataVersionError: rules.MetadataVersionError,
    }
    return refusals.get(type(error), rules.MetadataFormError)(str(error))
