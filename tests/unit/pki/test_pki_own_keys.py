"""Keys that people name themselves: their names, stores, public halves, and what they list in roles of their own."""

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tuf.api.metadata import Targets

from pki.csr import make_csr
from pki.errors import (
    CsrError,
    DelegationError,
    KeyMissingError,
    KeyNameError,
    KeyStoreError,
    RepositoryError,
    StoreConfigError,
)
from pki.key_inventory import KeyState, list_keys, list_own_keys
from pki.listings import check_team, next_listings, releasers_role
from pki.metadata import BINS_ROLE, content_target, targets_metadata
from pki.online import request_metadata_key, request_online_keys, requested_key
from pki.public_keys import (
    MAX_PUBLIC_KEY_BYTES,
    encode_public_key,
    load_public_key,
    note_path,
    note_public_half,
    public_half,
)
from pki.repository import RepositoryInForce
from pki.roles import OfflineKey, OnlineKey, check_own_key, signs_metadata
from pki.stores import FILE_STORE, KeyStores, open_keys
from protocol.signing import SoftwareSigner
from tests.softhsm import SoftHsm
from tests.unit.pki.proposal_builder import EXPIRES, IMAGE, Fleet, targets_of

FLEET = Fleet()
TEAM_IMAGE = content_target("images/m4-1/model/t.img", b"of the team")


def _stores(folder: Path) -> KeyStores:
    return open_keys(folder, passphrase=None)


@pytest.mark.parametrize("name", ["ada", "a", "ada-2", "image-targets-2", "root-2", "x" * 32])
def test_name_of_ones_own_is_taken(name: str) -> None:
    """Later generations of the keys that sign metadata are people's to make, too."""
    check_own_key(name)
    assert signs_metadata(name)


@pytest.mark.parametrize(
    "name", ["", "Ada", "1a", "a.pub", "../a", "x" * 33, "root", "image-targets", "package", "package-2", "snapshot-2"]
)
def test_name_that_is_reserved_or_none_is_refused(name: str) -> None:
    """The ceremony makes those, or the service does."""
    with pytest.raises(KeyNameError, match="key name: expected"):
        check_own_key(name)


def test_own_keys_are_listed_after_the_fixed_ones(tmp_path: Path) -> None:
    """Only those that sign update metadata count for proposals."""
    stores = _stores(tmp_path)
    for name in ("root", "package", "ada", "image-targets-2"):
        stores.generate(name)
    assert [entry.role for entry in list_own_keys(stores, prove=True)] == ["ada"]
    assert {entry.state for entry in list_own_keys(stores, prove=True)} == {KeyState.SIGNS}
    assert [entry.role for entry in list_keys(stores, [OfflineKey.ROOT], prove=False)] == ["root"]
    assert stores.metadata_names() == ["ada", "image-targets-2", "root"]


def test_own_key_is_in_the_token_that_is_named_for_it(softhsm: SoftHsm, tmp_path: Path) -> None:
    """In [keys] of keys.toml."""
    softhsm.add_token()
    softhsm.route(tmp_path, [])
    config = tmp_path / "keys.toml"
    config.write_text(config.read_text() + '\n[keys]\nada = "hsm"\nben = "file"\n')
    stores = _stores(tmp_path)
    signer = stores.generate("ada")
    assert (stores.store_of("ada"), stores.store_of("ben"), stores.files.names()) == ("hsm", FILE_STORE, [])
    assert (stores.metadata_names(), public_half(stores, "ada")) == (["ada", "ben"], signer.public_key)
    assert [entry.state for entry in list_own_keys(stores, prove=False)] == [KeyState.PRESENT, KeyState.MISSING]


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ('root = "file"', KeyNameError, "expected one of your own"),
        ('ada = "other"', StoreConfigError, "key ada: expected one of the stores file, found 'other'"),
        ("ada = 1", StoreConfigError, "key ada: expected one of the stores file, found '1'"),
    ],
)
def test_malformed_place_of_an_own_key_is_refused(
    tmp_path: Path, entry: str, error: type[KeyStoreError], message: str
) -> None:
    """A spelling mistake must not put a key where it does not belong."""
    (tmp_path / "keys.toml").write_text(f"[keys]\n{entry}\n")
    with pytest.raises(error, match=message):
        _stores(tmp_path)


def test_public_half_is_noted_when_it_is_first_needed(tmp_path: Path) -> None:
    """After that it is known without the key."""
    stores = _stores(tmp_path)
    public_key = stores.generate("ada").public_key
    assert public_half(stores, "ada") == public_key
    stores.files.path("ada").unlink()
    assert public_half(_stores(tmp_path), "ada") == public_key
    assert note_path(stores, "ada").name == "ada.pub"
    with pytest.raises(KeyMissingError, match="key ben"):
        public_half(stores, "ben")


def test_note_that_cannot_be_written_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys may lie on a medium that is read-only."""
    stores = _stores(tmp_path)
    public_key = stores.generate("ada").public_key

    def refuse(*_: object) -> Path:
        raise OSError("read-only")

    monkeypatch.setattr("pki.public_keys.note_public_half", refuse)
    assert public_half(stores, "ada") == public_key


def test_public_keys_are_read_alone_or_from_a_request(tmp_path: Path) -> None:
    """A service shows its keys by CSR."""
    signer = SoftwareSigner.generate()
    stores = _stores(tmp_path)
    path = note_public_half(stores, "ada", signer.public_key)
    assert load_public_key(path) == signer.public_key
    request = tmp_path / "csr.pem"
    request.write_bytes(make_csr(signer, "snapshot"))
    assert load_public_key(request) == signer.public_key


def _pem(public_key: ec.EllipticCurvePublicKey) -> bytes:
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(
            b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", id="no request"
        ),
        pytest.param(_pem(ec.generate_private_key(ec.SECP384R1()).public_key()), id="other curve"),
        pytest.param(b" " * (MAX_PUBLIC_KEY_BYTES + 1), id="too long"),
    ],
)
def test_file_without_a_p256_key_is_refused(tmp_path: Path, content: bytes) -> None:
    """Whatever else it holds."""
    path = tmp_path / "key.pub"
    path.write_bytes(content)
    with pytest.raises(KeyStoreError, match="expected a P-256 public key or a CSR in PEM, found something else"):
        load_public_key(path)


def test_request_that_another_key_signed_is_refused(tmp_path: Path) -> None:
    """It proves nothing."""
    own, other = (_der(make_csr(SoftwareSigner.generate(), "snapshot")) for _ in range(2))
    assert encode_public_key(FLEET.root.public_key).startswith(b"-----BEGIN PUBLIC KEY-----")
    path = tmp_path / "csr.pem"
    path.write_bytes(_as_pem(own[:-40] + other[-40:]))
    with pytest.raises(KeyStoreError, match="found something else"):
        load_public_key(path)
    with pytest.raises(KeyStoreError, match="expected a readable public key, found: No such file"):
        load_public_key(tmp_path / "missing.pub")


def _der(pem: bytes) -> bytes:
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def _as_pem(der: bytes) -> bytes:
    label = b"CERTIFICATE REQUEST-----\n"
    return b"-----BEGIN " + label + base64.encodebytes(der) + b"-----END " + label


def _in_force(roles: dict[str, Targets] | None = None) -> RepositoryInForce:
    given = FLEET.in_force.roles if roles is None else roles
    below = {role: targets for role, targets in given.items() if role != Targets.type}
    return RepositoryInForce(FLEET.in_force.root, given[Targets.type], below, {})


def test_releaser_lists_in_targets_what_a_team_could() -> None:
    """A device asks targets first."""
    assert releasers_role(_in_force(), TEAM_IMAGE.path) == Targets.type
    assert releasers_role(_in_force(), IMAGE.path) == Targets.type


def test_releaser_lists_in_hash_bins_where_they_are_on() -> None:
    """Except what a team is asked for."""
    binned = _in_force({role: targets_of(content) for role, content in FLEET.binned(1).items()})
    assert releasers_role(binned, "images/m4-0/model/z.img").startswith("bin-")
    assert releasers_role(binned, TEAM_IMAGE.path) == Targets.type
    with pytest.raises(DelegationError, match="expected targets of its paths"):
        check_team(binned, BINS_ROLE, ["releases/1-a.json"])


def test_team_lists_what_it_is_asked_for() -> None:
    """Its paths, and nothing else."""
    check_team(_in_force(), "vision", [TEAM_IMAGE.path])
    with pytest.raises(DelegationError, match=r"expected targets of its paths \(images/m4-1/model/\*\), found"):
        check_team(_in_force(), "vision", [IMAGE.path])
    with pytest.raises(DelegationError, match="role audio: expected one of vision, found another"):
        check_team(_in_force(), "audio", [])


def test_name_for_which_another_role_is_asked_is_refused() -> None:
    """The first delegation whose pattern fits is asked."""
    files = FLEET.binned(1)
    with pytest.raises(DelegationError, match=r"role bins: expected targets for which it is asked, found .*, for bin-"):
        check_team(_in_force({role: targets_of(each) for role, each in files.items()}), BINS_ROLE, [IMAGE.path])


def test_next_version_lists_what_is_new() -> None:
    """A role without anything new gets none; a target never changes."""
    in_force = _in_force()
    files = next_listings(in_force, {"targets": [IMAGE], "vision": [TEAM_IMAGE]}, expires=EXPIRES)
    assert list(files) == ["vision"]
    assert files["vision"] == targets_metadata([TEAM_IMAGE], version=2, expires=EXPIRES)
    changed = content_target(IMAGE.path, b"other bytes")
    with pytest.raises(RepositoryError, match="expected a new name or equal content, found other content"):
        next_listings(in_force, {"targets": [changed]}, expires=EXPIRES)


def test_service_makes_the_next_key_of_an_online_role(tmp_path: Path) -> None:
    """Each time another; the one before must be there."""
    with pytest.raises(CsrError, match=r"expected csr/timestamp\.pem of the key before, found none"):
        request_metadata_key(tmp_path, OnlineKey.TIMESTAMP)
    request_online_keys(tmp_path)
    names = [request_metadata_key(tmp_path, OnlineKey.TIMESTAMP) for _ in range(2)]
    assert names == ["timestamp-2", "timestamp-3"]
    assert len({encode_public_key(requested_key(tmp_path, name)) for name in ["timestamp", *names]}) == 3
