"""The five private methods of python-tuf's client that the device overrides, each by what it is there for."""

from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root, Targets
from tuf.ngclient import Updater

from device_sim.network.ports import HttpResponse, UnreachableError
from device_sim.update.errors import MetadataRefusedError
from device_sim.update.repository import MetadataFetcher, MetadataStore, Repository
from protocol.signing import SoftwareSigner, TufSigner, tuf_key
from tests.unit.device_update.update_builder import NOW, Catalog, Wire

PATH = "/device/v1/uptane/image/"
ROLES = ("root", "timestamp", "snapshot", "targets")


def accept_any(_targets: Targets) -> None:
    """Nothing is wrong with any targets here."""


class MemoryStorage:
    """Secure storage in memory, which counts what is written."""

    def __init__(self) -> None:
        self.items: dict[str, bytes] = {}
        self.writes = 0

    def get(self, name: str) -> bytes | None:
        return self.items.get(name)

    def put(self, name: str, value: bytes) -> None:
        self.writes += self.items.get(name) != value
        self.items[name] = value


class Checks:
    """A catalog's Image repository, checked again and again by one device."""

    def __init__(self) -> None:
        self.catalog = Catalog("0" * 128)
        self.wire = Wire(self.catalog)
        self.storage = MemoryStorage()

    def store(self) -> MetadataStore:
        return MetadataStore(self.storage, "image", anchor=self.catalog.image_root)

    def repository(self, *, hours: float = 0) -> Repository:
        now = NOW + timedelta(hours=hours)
        return Repository(self.store(), PATH, fetcher=MetadataFetcher(self.wire), now=now)

    def rotate_root(self, version: int, *, timestamp: SoftwareSigner | None = None) -> bytes:
        """Sign the next root, by the root key of before, which stays."""
        metadata = Metadata[Root].from_bytes(self.catalog.image_root)
        metadata.signed.version = version
        if timestamp is not None:
            (old,) = metadata.signed.roles["timestamp"].keyids
            metadata.signed.revoke_key(old, "timestamp")
            metadata.signed.add_key(tuf_key(timestamp.public_key), "timestamp")
        metadata.sign(TufSigner(self.catalog.keys.root))
        content = metadata.to_bytes()
        self.catalog.files[f"image/{version}.root.json"] = content
        return content


@pytest.fixture
def checks() -> Checks:
    return Checks()


def test_overridden_methods_exist_in_the_pinned_client() -> None:
    """A release of tuf that renames one of them must not go unnoticed."""
    for name in ("_load_local_metadata", "_persist_metadata", "_persist_root", "_update_root_symlink", "_load_root"):
        assert callable(getattr(Updater, name))
        assert name in vars(Repository)


def test_load_local_metadata_prefers_what_is_stored(checks: Checks) -> None:
    """A second check with nothing new asks for the next root and the timestamp alone."""
    checks.repository().check(accept_any)
    first, checks.wire.requests = checks.wire.requests, []
    checks.repository().check(accept_any)
    assert [path.removeprefix(PATH) for path in first] == [
        "2.root.json",
        "timestamp.json",
        "snapshot.json",
        "targets.json",
    ]
    assert [path.removeprefix(PATH) for path in checks.wire.requests] == ["2.root.json", "timestamp.json"]


def test_load_local_metadata_of_unknown_role_is_file_not_found(checks: Checks) -> None:
    """The client takes that for a role it has never seen."""
    with pytest.raises(FileNotFoundError, match="timestamp"):
        checks.repository()._load_local_metadata("timestamp")


def test_persist_metadata_keeps_every_role(checks: Checks) -> None:
    """After a check, storage holds all four roles, in one item, written once."""
    checks.repository().check(accept_any)
    assert all(checks.store().read(role) for role in ROLES)
    assert (list(checks.storage.items), checks.storage.writes) == (["image"], 1)


def test_check_with_nothing_new_writes_nothing(checks: Checks) -> None:
    """Flash is not worn by an idle device."""
    checks.repository().check(accept_any)
    checks.repository().check(accept_any)
    assert checks.storage.writes == 1


def test_persist_root_keeps_the_newest_root(checks: Checks) -> None:
    """A rotated root takes the place of the voucher's and is not asked for again."""
    newest = checks.rotate_root(2)
    checks.repository().check(accept_any)
    checks.wire.requests.clear()
    checks.repository().check(accept_any)
    assert checks.store().read("root") == newest
    assert checks.wire.requests[0] == PATH + "3.root.json"


def test_update_root_symlink_touches_no_file(checks: Checks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No check leaves anything on the host's disk."""
    monkeypatch.chdir(tmp_path)
    checks.rotate_root(2)
    checks.repository().check(accept_any)
    assert not list(tmp_path.iterdir())


def test_load_root_takes_roots_one_by_one(checks: Checks) -> None:
    """Two rotations are followed in order."""
    checks.rotate_root(2)
    checks.rotate_root(3)
    checks.repository().check(accept_any)
    assert Metadata[Root].from_bytes(checks.store().read("root") or b"").signed.version == 3


def test_load_root_refuses_a_skipped_version(checks: Checks) -> None:
    """A root that jumps ahead is not the next one."""
    checks.catalog.files["image/2.root.json"] = checks.rotate_root(3)
    with pytest.raises(MetadataRefusedError, match="Expected root version 2"):
        checks.repository().check(accept_any)
    assert checks.store().read("root") == checks.catalog.image_root


def test_load_root_refuses_a_root_by_unknown_key(checks: Checks) -> None:
    """The next root must be signed by the keys of the one before."""
    metadata = Metadata[Root].from_bytes(checks.catalog.image_root)
    metadata.signed.version = 2
    metadata.sign(TufSigner(SoftwareSigner.generate()))
    checks.catalog.files["image/2.root.json"] = metadata.to_bytes()
    with pytest.raises(MetadataRefusedError, match="UnsignedMetadataError"):
        checks.repository().check(accept_any)


def test_load_root_passes_on_a_failing_server(checks: Checks) -> None:
    """Only a missing root means that the newest is known."""
    checks.wire.hook = lambda _path, _headers: HttpResponse(500, {}, b"")
    with pytest.raises(UnreachableError, match="found 500"):
        checks.repository().check(accept_any)


def test_rotated_timestamp_key_forgets_the_old_timestamp(checks: Checks) -> None:
    """After a fast-forward by a stolen key, a rotation lets the device go on with lower versions."""
    for _ in range(5):
        checks.catalog.publish()
    checks.repository().check(accept_any)
    fresh = SoftwareSigner.generate()
    object.__setattr__(checks.catalog.keys, "timestamp", fresh)
    checks.rotate_root(2, timestamp=fresh)
    checks.catalog.version = 5
    checks.catalog.publish()
    checks.repository().check(accept_any)
    assert checks.store().timestamp_keys()[0] == fresh.public_key


def test_reference_time_is_the_devices(checks: Checks) -> None:
    """Expiry is judged by the time that is handed in, not by the host's clock."""
    checks.repository(hours=23).check(accept_any)
    with pytest.raises(MetadataRefusedError, match=r"timestamp\.json is expired"):
        checks.repository(hours=25).check(accept_any)


def test_another_voucher_forgets_the_old_catalog(checks: Checks) -> None:
    """Metadata of one catalog is worth nothing under another one's root."""
    checks.repository().check(accept_any)
    other = Catalog("0" * 128)
    store = MetadataStore(checks.storage, "image", anchor=other.image_root)
    assert store.read("root") == other.image_root
    assert store.read("timestamp") is None
