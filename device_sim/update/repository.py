"""One TUF repository as a device keeps it: python-tuf's client over secure storage instead of a directory.

`tuf.ngclient.Updater` offers no other storage, so five of its private methods are overridden here; the version of tuf
is pinned and tests/unit/device_update/test_update_repository.py stands on each of them. Only the newest verified root
is kept, because secure storage is trusted: it takes the place of the root that came with the voucher.
Expiry is judged by the device's clock, never by the host's.

Delegated roles are asked on the way to a target, hash bins included (TUF specification 4.5, 5.6.7). Of them no more is
kept than `MAX_KEPT_DELEGATED`: that they do not go back is the snapshot's to say, so a copy only saves a download.

What a check takes, at most (`CONFIG`, `MAX_METADATA_BYTES`), whatever lengths the online keys sign:
    root        64 KiB, and 256 versions in one check: a device that slept for years follows every rotation
    timestamp   16 KiB
    snapshot     1 MiB: 4,096 hash bins with length and hash take about 0.6 MB
    targets      4 MiB: some 6,000 images in one file; more belong in hash bins, and are refused where they are signed
    deltas     256 KiB: this role is signed online
    Director    64 KiB, each of its files
    delegations  8 roles on the way to one target
Of one repository no more is kept than `MAX_KEPT_BYTES`, so that secure storage always has room: delegated roles are
dropped first, and top-level metadata that is more is refused.
"""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from types import MappingProxyType
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
)
from tuf.api.metadata import TOP_LEVEL_ROLE_NAMES, Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig
from typing_extensions import override

from device_sim.network.ports import (
    EndlessDataError,
    HttpTransport,
    NetworkError,
    UnexpectedResponseError,
    UnreachableError,
)
from device_sim.network.problems import TOO_MANY_REQUESTS, UNAVAILABLE, unexpected
from device_sim.update.errors import (
    EndlessMetadataError,
    MetadataExpiredError,
    MetadataMixError,
    MetadataNotKeptError,
    MetadataRefusedError,
    MetadataRollbackError,
    UpdateError,
)
from protocol.geometry import KIB
from protocol.updates import MAX_ROOT_BYTES, MAX_TARGETS_BYTES

MAX_METADATA_BYTES = MAX_TARGETS_BYTES
MAX_DIRECTOR_BYTES = 64 * KIB
MAX_ROLE_BYTES = MappingProxyType({"deltas": 256 * KIB})
CONFIG = UpdaterConfig(
    max_root_rotations=256,
    max_delegations=8,
    root_max_length=MAX_ROOT_BYTES,
    timestamp_max_length=16 * KIB,
    snapshot_max_length=1024 * KIB,
    targets_max_length=MAX_METADATA_BYTES,
    prefix_targets_with_hash=False,
)
MAX_KEPT_DELEGATED = 32  # roles
MAX_KEPT_BYTES = 7168 * KIB  # of one repository, as it is written
_FILE = re.compile(r"(?:\d+\.)?([^/]+)\.json\Z")
_ORDERED_ROLES = frozenset({Root.type, Timestamp.type, Snapshot.type})  # a wrong version of these is an older one
_FORGOTTEN = "missing info for"  # ngclient's words for a snapshot without a role that it had (client workflow 5.5.5)
OK = 200
MISSING = frozenset({403, 404})


class Storage(Protocol):
    """Secure storage as the update client needs it: bytes by name, several changed at once or none."""

    def get(self, name: str) -> bytes | None:
        """Return what is kept under a name, or None."""

    def put(self, name: str, value: bytes) -> None:
        """Keep bytes under a name."""


class MetadataStore:
    """Verified metadata of one repository, kept under one name of secure storage.

    Args:
        storage: where.
        name: under which name.
        anchor: root metadata of the voucher; another one than before forgets everything.
    """

    def __init__(self, storage: Storage, name: str, *, anchor: bytes) -> None:
        self._storage = storage
        self._name = name
        self._anchor = anchor.decode()
        self._anchor_digest = hashlib.sha256(anchor).hexdigest()
        self._files = self._load() or {Root.type: self._anchor}
        self._used: set[str] = set()

    def _load(self) -> dict[str, str] | None:
        kept = self._storage.get(self._name)
        document = json.loads(kept) if kept is not None else {}
        return document["files"] if document.get("anchor") == self._anchor_digest else None

    def begin_check(self) -> None:
        """Begin to note which roles a check needs."""
        self._used.clear()

    def read(self, role: str) -> bytes | None:
        """Return the newest verified metadata of a role, or None."""
        self._used.add(role)
        text = self._files.get(role)
        return None if text is None else text.encode()

    def write(self, role: str, data: bytes) -> None:
        """Take verified metadata of a role; `save` keeps it."""
        self._used.add(role)
        self._files[role] = data.decode()

    def timestamp_keys(self) -> list[ec.EllipticCurvePublicKey]:
        """Return the keys that the newest verified root trusts with the timestamp role."""
        root = Metadata[Root].from_bytes(self._files[Root.type].encode()).signed
        keys = [root.keys[key_id].keyval["public"] for key_id in root.roles[Timestamp.type].keyids]
        loaded = [load_pem_public_key(key.encode()) for key in keys]
        return [key for key in loaded if isinstance(key, ec.EllipticCurvePublicKey)]

    def save_root(self) -> None:
        """Keep the root that was written; whatever else was written is forgotten."""
        kept = self._load() or {}
        self._files = {**kept, Root.type: self._files[Root.type]}
        self.save()

    def save(self) -> None:
        """Keep what was written; nothing is written to storage if nothing changed.

        Raises:
            MetadataNotKeptError: the top-level roles alone are more than may be kept; nothing was written.
        """
        if len(self._files) - len(TOP_LEVEL_ROLE_NAMES) > MAX_KEPT_DELEGATED:
            self._keep(self._used | TOP_LEVEL_ROLE_NAMES)
        encoded = self._encoded()
        if len(encoded) > MAX_KEPT_BYTES:
            self._keep(TOP_LEVEL_ROLE_NAMES)
            encoded = self._encoded()
        if len(encoded) > MAX_KEPT_BYTES:
            self._files = self._load() or {Root.type: self._anchor}
            raise MetadataNotKeptError(
                f"{self._name}: expected at most {MAX_KEPT_BYTES} bytes of metadata, found {len(encoded)}"
            )
        self._storage.put(self._name, encoded)

    def _keep(self, roles: Collection[str]) -> None:
        self._files = {role: text for role, text in self._files.items() if role in roles}

    def _encoded(self) -> bytes:
        document = {"anchor": self._anchor_digest, "files": self._files}
        return json.dumps(document, sort_keys=True, ensure_ascii=False).encode()


class MetadataFetcher(FetcherInterface):
    """Fetches metadata over a device's transport, which reads the body of a 404 too and so keeps the connection.

    Args:
        transport: the device's.
        max_bytes: of any file, whatever lengths the online keys sign.

    Attributes:
        failure: the last one; ngclient swallows the class of what went wrong.
        role: whose file was asked for last.
    """

    def __init__(self, transport: HttpTransport, *, max_bytes: int = MAX_METADATA_BYTES) -> None:
        self._transport = transport
        self._max_bytes = max_bytes
        self.failure: NetworkError | None = None
        self.role = ""

    @override
    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, CONFIG.targets_max_length)

    @override
    def download_bytes(self, url: str, max_length: int) -> bytes:
        named = _FILE.search(url)
        self.role = named[1] if named else ""
        try:
            # The length may come from a timestamp or snapshot, whose keys are online.
            most = min(max_length, self._max_bytes, MAX_ROLE_BYTES.get(self.role, MAX_METADATA_BYTES))
            response = self._transport.request("GET", url, max_bytes=most)
        except NetworkError as error:
            self.failure = error
            raise DownloadError(str(error)) from error
        if response.status in {TOO_MANY_REQUESTS, UNAVAILABLE}:
            self.failure = unexpected(url, response, expected=OK)
        if response.status != OK:
            raise DownloadHTTPError(f"{url}: expected 200, found {response.status}", response.status)
        return response.body


class Repository(Updater):
    """One check of one repository; `refresh` works once.

    Args:
        store: verified metadata.
        base_path: where the metadata is served.
        fetcher: of the device's transport.
        now: the device's time, UTC and aware.
    """

    def __init__(self, store: MetadataStore, base_path: str, *, fetcher: MetadataFetcher, now: datetime) -> None:
        self._store = store
        self._store.begin_check()
        self._metadata_fetcher = fetcher
        super().__init__("", base_path, fetcher=fetcher, config=CONFIG, bootstrap=store.read(Root.type))
        self._trusted_set.reference_time = now

    def check(self, accept: Callable[[Targets], None], *, partly: bool = True) -> Targets:
        """Refresh all four roles and return the verified top-level targets.

        Args:
            accept: judges the verified targets further; what it refuses leaves nothing but roots behind in the store,
                so that well-signed metadata for somebody else cannot hold this device up.
            partly: where a later role fails, keep the roles before it, which guard against rollback; not where only
                `accept` can tell whose they are.

        Raises:
            NetworkError: the service was not reached.
            MetadataRefusedError: or the leaf of the rule that a role breaks.
            UpdateError: what `accept` raises.
        """
        self._metadata_fetcher.failure = None
        try:
            self.refresh()
        except (RepositoryError, DownloadError) as error:
            keep = self._store.save if partly else self._store.save_root
            keep()
            raise self._refusal(error) from error
        try:
            accept(self._trusted_set.targets)
        except UpdateError:
            self._store.save_root()
            raise
        self._store.save()
        return self._trusted_set.targets

    @property
    def root(self) -> Root:
        """The newest verified root."""
        return self._trusted_set.root

    def find_top_level(self, name: str) -> TargetFile | None:
        """Return a target's verified description if the top-level targets list it themselves, or None."""
        return self._trusted_set.targets.targets.get(name)

    def find(self, name: str) -> TargetFile | None:
        """Return a target's verified description, through delegations, or None. Raises as `check`."""
        self._metadata_fetcher.failure = None
        try:
            return self.get_targetinfo(name)
        except (RepositoryError, DownloadError) as error:
            raise self._refusal(error) from error
        finally:
            self._store.save()

    def _refusal(self, error: Exception) -> Exception:
        failure = self._metadata_fetcher.failure
        if isinstance(failure, EndlessDataError):
            return EndlessMetadataError(str(failure))
        if isinstance(failure, NetworkError):
            return failure
        if isinstance(error, DownloadError):
            return UnreachableError(str(error))
        leaf = _broken_rule(error, self._metadata_fetcher.role)
        return leaf(f"{self._metadata_base_url}: {type(error).__name__}: {error}")

    @override
    def _load_local_metadata(self, rolename: str) -> bytes:
        data = self._store.read(rolename)
        if data is None:
            raise FileNotFoundError(rolename)  # what ngclient takes for a role that it has never seen
        return data

    @override
    def _persist_metadata(self, rolename: str, data: bytes) -> None:
        self._store.write(rolename, data)

    @override
    def _persist_root(self, version: int, data: bytes) -> None:
        self._store.write(Root.type, data)

    @override
    def _update_root_symlink(self) -> None:
        """Nothing to do: the store keeps one root, the newest."""

    @override
    def _load_root(self) -> None:
        first = self._trusted_set.root.version + 1
        for version in range(first, first + CONFIG.max_root_rotations):
            try:
                data = self._download_metadata(Root.type, CONFIG.root_max_length, version)
            except DownloadHTTPError as error:
                if error.status_code not in MISSING:
                    raise
                return  # client workflow 5.3.3: the current root is the newest
            self._trusted_set.update_root(data)
            self._persist_root(version, data)
        self._metadata_fetcher.failure = UnexpectedResponseError(
            f"root: expected at most {CONFIG.max_root_rotations} new versions in one check, found more to follow"
        )
        raise DownloadError(str(self._metadata_fetcher.failure))


def _broken_rule(error: Exception, role: str) -> type[MetadataRefusedError]:
    if isinstance(error, ExpiredMetadataError):
        return MetadataExpiredError
    if role in _ORDERED_ROLES and (isinstance(error, BadVersionNumberError) or _FORGOTTEN in str(error)):
        return MetadataRollbackError
    if isinstance(error, BadVersionNumberError | LengthOrHashMismatchError):
        return MetadataMixError
    return MetadataRefusedError
