"""What verified metadata may fill, and what a failed check leaves behind."""

from datetime import timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadError
from tuf.api.metadata import Metadata, Root, Targets

from device_sim.errors import StorageFullError
from device_sim.hardware.power import PowerSupply
from device_sim.hardware.secure_storage import MAX_STORAGE_BYTES, REPORTS, RESERVED_BYTES, SecureStorage
from device_sim.network.ports import HttpResponse, UnexpectedResponseError, UnreachableError
from device_sim.update.errors import EndlessMetadataError, MetadataNotKeptError, MetadataRefusedError
from device_sim.update.repository import (
    CONFIG,
    MAX_DIRECTOR_BYTES,
    MAX_KEPT_BYTES,
    MAX_ROLE_BYTES,
    MetadataFetcher,
    MetadataStore,
    Repository,
)
from pki.metadata import Delegation, DirectorSigner, add_signature, next_root, role_delegations, sign_targets
from protocol.geometry import KIB
from protocol.signing import SoftwareSigner
from protocol.updates import DirectorDevice
from tests.unit.device_update.test_update_repository import PATH, Checks, MemoryStorage, accept_any
from tests.unit.device_update.update_builder import NOW

FAR = NOW + timedelta(days=365)


@pytest.fixture
def checks() -> Checks:
    return Checks()


def test_storage_refuses_what_it_could_not_read_again(tmp_path: Path) -> None:
    """A name too many is refused before anything is written; the device wakes with what it had."""
    storage = SecureStorage(tmp_path / "state.json", power=PowerSupply())
    storage.put("kept", b"1")
    with pytest.raises(StorageFullError, match=f"expected at most {MAX_STORAGE_BYTES - RESERVED_BYTES} bytes, found"):
        storage.put("large", bytes(MAX_STORAGE_BYTES))
    assert storage.names() == ("kept",)
    assert SecureStorage(tmp_path / "state.json", power=PowerSupply()).get("kept") == b"1"


def test_storage_that_is_full_still_takes_reports(tmp_path: Path) -> None:
    """And whatever takes no more room than before; at its end it takes nothing more at all."""
    storage = SecureStorage(tmp_path / "state.json", power=PowerSupply())
    most = (MAX_STORAGE_BYTES - RESERVED_BYTES) * 3 // 4 - 100  # values are kept as base64
    storage.put("filler", bytes(most))
    with pytest.raises(StorageFullError):
        storage.put("more", bytes(1000))
    storage.put(REPORTS, bytes(1000))
    storage.put("filler", bytes([1]) * most)
    storage.update({REPORTS: None})
    with pytest.raises(StorageFullError, match=f"expected at most {MAX_STORAGE_BYTES} bytes, found"):
        storage.put(REPORTS, bytes(RESERVED_BYTES))


def test_store_keeps_text_as_it_is() -> None:
    """Letters beyond ASCII take no more room in storage than in the file."""
    storage = MemoryStorage()
    store = MetadataStore(storage, "image", anchor=b"{}")
    store.write("targets", ("é" * 100_000).encode())
    store.save()
    assert len(storage.items["image"]) < 201_000


def test_store_drops_delegated_roles_that_do_not_fit() -> None:
    """The top-level roles, which guard against rollback, stay."""
    storage = MemoryStorage()
    store = MetadataStore(storage, "image", anchor=b"{}")
    store.write("targets", b"1" * 4096 * KIB)
    store.write("team", b"2" * 4096 * KIB)
    store.save()
    assert len(storage.items["image"]) <= MAX_KEPT_BYTES
    again = MetadataStore(storage, "image", anchor=b"{}")
    assert (again.read("team"), len(again.read("targets") or b"")) == (None, 4096 * KIB)


def test_store_refuses_top_level_roles_that_do_not_fit() -> None:
    """Nothing is written, and what was there is in force again."""
    storage = MemoryStorage()
    store = MetadataStore(storage, "image", anchor=b"{}")
    store.write("timestamp", b"before")
    store.save()
    store.write("targets", b'"' * 4096 * KIB)
    with pytest.raises(MetadataNotKeptError, match=f"image: expected at most {MAX_KEPT_BYTES} bytes of metadata"):
        store.save()
    assert (store.read("timestamp"), store.read("targets"), storage.writes) == (b"before", None, 1)


def test_directors_file_beyond_its_bound_is_refused(checks: Checks) -> None:
    """A device's own targets are few."""
    checks.wire.hook = lambda path, _headers: _answer(path, "timestamp", MAX_DIRECTOR_BYTES)
    fetcher = MetadataFetcher(checks.wire, max_bytes=CONFIG.timestamp_max_length - 1)
    with pytest.raises(EndlessMetadataError, match=f"expected at most {CONFIG.timestamp_max_length - 1} bytes"):
        Repository(checks.store(), PATH, fetcher=fetcher, now=NOW).check(accept_any)


def _answer(path: str, role: str, length: int) -> HttpResponse | None:
    return HttpResponse(200, {}, bytes(length)) if path.endswith(f"{role}.json") else None


def test_patches_role_beyond_its_bound_is_refused(checks: Checks) -> None:
    """The role that is signed online cannot fill the device."""
    most = MAX_ROLE_BYTES["deltas"]
    checks.wire.hook = lambda path, _headers: _answer(path, "deltas", most + 1)
    with pytest.raises(DownloadError, match=f"expected at most {most} bytes"):
        MetadataFetcher(checks.wire).download_bytes(f"{PATH}deltas.json", CONFIG.targets_max_length)


def _delegate(checks: Checks, role: str, path: str) -> None:
    key = SoftwareSigner.generate()
    catalog = checks.catalog
    old = catalog.delegations
    new = role_delegations([Delegation(role, (key.public_key,), 1, (path,))])
    if old is not None and old.roles is not None and new.roles is not None:
        new.roles = {**old.roles, **new.roles}
        new.keys = {**old.keys, **new.keys}
    catalog.delegations = new
    catalog.roles[role] = sign_targets([], key, version=1, expires=FAR)
    catalog.publish()


def test_failure_of_one_role_is_not_the_next_ones(checks: Checks) -> None:
    """An outage while one role was asked for does not hide that another one is forged."""
    _delegate(checks, "first", "first/*")
    _delegate(checks, "second", "second/*")
    checks.catalog.roles["second"] = sign_targets([], SoftwareSigner.generate(), version=1, expires=FAR)
    checks.catalog.publish()
    repository = checks.repository()
    repository.check(accept_any)
    checks.wire.hook = lambda path, _headers: HttpResponse(503, {}, b"") if path.endswith("first.json") else None
    with pytest.raises(UnexpectedResponseError, match="expected 200, found 503"):
        repository.find("first/x")
    with pytest.raises(MetadataRefusedError, match="UnsignedMetadataError"):
        repository.find("second/x")


def test_roots_beyond_one_check_are_kept_and_more_are_asked_for(checks: Checks) -> None:
    """A device that slept through more rotations than one check follows goes on in the next."""
    root = checks.catalog.image_root
    last = CONFIG.max_root_rotations + 3
    for version in range(2, last + 1):
        signed = next_root(_root(root), {}, expires=FAR)
        root = add_signature(signed, checks.catalog.keys.root)
        checks.catalog.files[f"image/{version}.root.json"] = root
    with pytest.raises(UnexpectedResponseError, match="found more to follow"):
        checks.repository().check(accept_any)
    assert _root(checks.store().read("root") or b"").version == CONFIG.max_root_rotations + 1
    checks.repository().check(accept_any)
    assert checks.store().read("root") == root


def _root(content: bytes) -> Root:
    return Metadata[Root].from_bytes(content).signed


def test_timestamp_of_another_device_is_not_kept(checks: Checks) -> None:
    """Only the targets say whose metadata it is; until they came, nothing but roots is kept."""
    catalog = checks.catalog
    other = DirectorDevice(device_id="b" * 128, action_id=None)
    foreign = DirectorSigner(catalog.keys.director).sign_set(other, [], version=9000, expires=FAR)
    catalog.files["director/timestamp.json"] = foreign.timestamp
    catalog.files["director/snapshot.json"] = foreign.snapshot
    del catalog.files["director/targets.json"]
    with pytest.raises(UnreachableError, match="found 404"):
        _director(checks).check(accept_any, partly=False)
    catalog.publish()
    assert isinstance(_director(checks).check(accept_any, partly=False), Targets)


def _director(checks: Checks) -> Repository:
    store = MetadataStore(checks.storage, "director", anchor=checks.catalog.director_root)
    path = PATH.replace("image", "director")
    return Repository(store, path, fetcher=MetadataFetcher(checks.wire, max_bytes=MAX_DIRECTOR_BYTES), now=NOW)
