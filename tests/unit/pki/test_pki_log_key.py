"""Note keys on disk: the log's and its request, a witness's, and a root that carries a policy."""

import base64
from pathlib import Path

import pytest
from tuf.api.metadata import Root

from pki.errors import KeyExistsError, KeyMissingError, KeyStoreError, LogRequestError
from pki.key_inventory import KeyState, log_key_entry
from pki.log_key import (
    load_log_key,
    load_witness_key,
    make_witness_key,
    request_log_key,
    requested_log_key,
    with_log_policy,
)
from protocol.notes import NoteFormError, SignatureKind, UnverifiedNote, verify_note
from protocol.transparency import LogPolicy, policy_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A service's folder with the log's key."""
    request_log_key(tmp_path)
    return tmp_path


def test_key_and_request_are_made_once(folder: Path) -> None:
    """The key is its owner's alone, the request is signed by it."""
    key, request = folder / "keys/log.key", folder / "csr/log.note"
    before = key.read_bytes(), request.read_bytes()
    request_log_key(folder)
    assert (key.read_bytes(), request.read_bytes()) == before
    assert key.stat().st_mode & 0o777 == 0o600
    assert requested_log_key(folder) == load_log_key(folder).key
    assert load_log_key(folder).key.kind is SignatureKind.ED25519


def test_lost_request_is_made_again_from_the_key(folder: Path) -> None:
    """As after an interruption between the two files."""
    key = load_log_key(folder).key
    (folder / "csr/log.note").unlink()
    request_log_key(folder)
    assert requested_log_key(folder) == key


def test_request_without_key_is_left_alone(folder: Path) -> None:
    """It has come to the operator's machine."""
    (folder / "keys/log.key").unlink()
    request_log_key(folder)
    with pytest.raises(KeyMissingError, match=r"expected .*log\.key, found no such file"):
        load_log_key(folder)


def test_missing_request_is_refused(tmp_path: Path) -> None:
    """Before the ceremony makes anything."""
    with pytest.raises(LogRequestError, match="expected the service's request"):
        requested_log_key(tmp_path)


def test_request_that_proves_no_possession_is_refused(folder: Path) -> None:
    """Another's signature, another text, another form."""
    path = folder / "csr/log.note"
    mine, other = load_log_key(folder), folder / "other"
    request_log_key(other)
    stranger = load_log_key(other)
    text = f"tinyfleet transparency log key\n{mine.key}\n"
    for content in (
        UnverifiedNote(text, (stranger.sign(text),)).encode(),
        UnverifiedNote(text, (mine.sign("another\n"),)).encode(),
        _signed(folder, f"another header\n{mine.key}\n"),
        _signed(folder, f"{text}more\n"),
        _signed(folder, "tinyfleet transparency log key\n"),
        b"no note",
    ):
        path.write_bytes(content)
        with pytest.raises(LogRequestError, match=r"log\.note: expected"):
            requested_log_key(folder)


def _signed(folder: Path, text: str) -> bytes:
    return UnverifiedNote(text, (load_log_key(folder).sign(text),)).encode()


def test_witness_key_is_made_and_used(tmp_path: Path) -> None:
    """Its signatures are cosignatures."""
    path = tmp_path / "witness.key"
    key = make_witness_key(path, "witness.example/w1")
    cosigner = load_witness_key(path)
    note = UnverifiedNote("text\n", (cosigner.sign("text\n", at=7),)).encode()
    assert verify_note(note, [key]).signed_by == {key: 7}
    with pytest.raises(KeyExistsError, match="found one"):
        make_witness_key(path, "witness.example/w1")
    with pytest.raises(NoteFormError, match="key name"):
        make_witness_key(tmp_path / "other", "two words")


def test_key_that_is_open_to_others_is_refused(folder: Path) -> None:
    """As other online keys."""
    (folder / "keys/log.key").chmod(0o644)
    with pytest.raises(KeyStoreError, match="closed to others, found mode 0644"):
        load_log_key(folder)


def test_unreadable_key_is_refused(folder: Path) -> None:
    """A folder in its place."""
    (folder / "keys/log.key").unlink()
    (folder / "keys/log.key").mkdir()
    with pytest.raises(KeyStoreError, match="expected a readable"):
        load_log_key(folder)


def test_key_of_another_kind_or_damaged_is_refused(folder: Path) -> None:
    """A witness's key cannot sign for the log."""
    path = folder / "keys/log.key"
    content = path.read_text()
    make_witness_key(folder / "witness.key", "w")
    name, key_id, material = content.strip().removeprefix("PRIVATE+KEY+").split("+", 2)
    for wrong in (
        (folder / "witness.key").read_text(),
        f"PRIVATE+KEY+{name}+00000000+{material}\n",
        "",
        f"PRIVATE+KEY+{name}+{key_id}+{base64.b64encode(bytes(3)).decode()}\n",
        f"PRIVATE+KEY+{name} x+{key_id}+{material}\n",
        "x" * 2000,
    ):
        path.write_text(wrong)
        with pytest.raises(KeyStoreError, match=r"expected .*log\.key to hold a"):
            load_log_key(folder)


def test_root_gets_and_loses_a_policy(folder: Path) -> None:
    """A copy; the root itself stays as it was."""
    key = load_log_key(folder).key
    policy, root = LogPolicy(origin=key.name, log=str(key)), Root(unrecognized_fields={"other": 1})
    changed = with_log_policy(root, policy)
    assert (policy_of(changed), changed.unrecognized_fields["other"]) == (policy, 1)
    assert policy_of(root) is None
    assert with_log_policy(changed, None).unrecognized_fields == {"other": 1}


def test_key_is_listed_and_may_be_tried(folder: Path) -> None:
    """Missing, present, and signing; one that others may read is unusable, and the list says why."""
    assert log_key_entry(folder, prove=False).state is KeyState.PRESENT
    assert log_key_entry(folder, prove=True).state is KeyState.SIGNS
    (folder / "keys/log.key").chmod(0o644)
    unusable = log_key_entry(folder, prove=True)
    assert (unusable.state, unusable.public_key) == (KeyState.UNUSABLE, None)
    assert "expected" in unusable.problem
    (folder / "keys/log.key").unlink()
    assert log_key_entry(folder, prove=True).state is KeyState.MISSING
