"""Signed notes: C2SP's own example, and every way in which one is wrong."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.notes import (
    MAX_NOTE_BYTES,
    Cosigner,
    Ed25519Signer,
    NoteFormError,
    NoteSignatureError,
    SignatureKind,
    UnverifiedNote,
    check_name,
    parse_note,
    parse_signatures,
    parse_vkey,
    verify_note,
)

EXAMPLE_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
EXAMPLE = (
    "This is an example message.\n\n— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYj"
    "OBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
).encode()
TEXT = "origin\n3\nhash\n"
LOG = Ed25519Signer("log.example", Ed25519PrivateKey.from_private_bytes(bytes(32)))
WITNESS = Cosigner("witness.example/w1", Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
STRANGER = Ed25519Signer("log.example", Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32))
AT = 1_700_000_000


def _note(*signatures: object) -> bytes:
    return UnverifiedNote(TEXT, signatures).encode()  # type: ignore[arg-type]  # lines of tests


def test_example_of_the_specification_verifies() -> None:
    """C2SP signed-note, "Example"."""
    key = parse_vkey(EXAMPLE_KEY)
    verified = verify_note(EXAMPLE, [key])
    assert verified.text == "This is an example message.\n"
    assert verified.signed_by == {key: 0}
    assert str(key) == EXAMPLE_KEY


def test_note_is_signed_by_log_and_witness() -> None:
    """The witness says when."""
    note = _note(LOG.sign(TEXT), WITNESS.sign(TEXT, at=AT))
    verified = verify_note(note, [LOG.key, WITNESS.key])
    assert verified.signed_by == {LOG.key: 0, WITNESS.key: AT}
    assert parse_note(note).encode() == note


def test_signature_of_an_unknown_key_is_ignored() -> None:
    """Even under a known name."""
    verified = verify_note(_note(STRANGER.sign(TEXT), LOG.sign(TEXT)), [LOG.key])
    assert (set(verified.signed_by), len(verified.signatures)) == ({LOG.key}, 1)


def test_key_that_signs_twice_counts_once() -> None:
    """Whatever the second signature is."""
    note = _note(WITNESS.sign(TEXT, at=AT), WITNESS.sign(TEXT, at=AT + 1))
    assert verify_note(note, [WITNESS.key]).signed_by == {WITNESS.key: AT}


def test_false_signature_of_a_known_key_is_refused() -> None:
    """Over another text, or said to be made at another time."""
    with pytest.raises(NoteSignatureError, match=r"expected the signature of log\.example to verify"):
        verify_note(_note(LOG.sign("other\n")), [LOG.key])
    moved = WITNESS.sign(TEXT, at=AT)
    late = (AT + 60).to_bytes(8, "big") + moved.signature[8:]
    with pytest.raises(NoteSignatureError, match=r"witness\.example/w1"):
        verify_note(_note(type(moved)(moved.name, moved.key_id, late)), [WITNESS.key])
    short = type(moved)(moved.name, moved.key_id, b"x")
    with pytest.raises(NoteSignatureError, match=r"witness\.example/w1"):
        verify_note(_note(short), [WITNESS.key])


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        (b"x" * (MAX_NOTE_BYTES + 1), "expected at most"),
        (b"text\n\n\xff\n", "expected UTF-8"),
        (b"te\txt\n\n\xe2\x80\x94 a AAAAAAA=\n", "expected no control characters"),
        (b"no signatures\n", "expected a text, an empty line"),
        (b"\n\n\xe2\x80\x94 a AAAAAAA=\n", "expected a text, an empty line"),
        (b"text\n\n\xe2\x80\x94 a AAAAAAA=", "expected a text, an empty line"),
        (b"text\n\n- a AAAAAAA=\n", "expected a signature line"),
        ("text\n\n— a AAAAAA==\n".encode(), "expected a signature line"),  # a key ID alone
        ("text\n\n— a AAAAAAB=\n".encode(), "expected a signature line"),  # not canonical
        ("text\n\n— a AAAAA\n".encode(), "expected a signature line"),
        (("text\n\n" + "— a AAAAAAA=\n" * 33).encode(), "expected at most 32 signatures"),
    ],
)
def test_what_is_no_note_is_refused(note: bytes, expected: str) -> None:
    """One thing wrong each."""
    with pytest.raises(NoteFormError, match=expected):
        parse_note(note)


def test_no_lines_are_no_signatures() -> None:
    """A witness may answer nothing."""
    assert parse_signatures("") == []


@pytest.mark.parametrize(
    "text",
    [
        "a+b" * 200,
        "name",
        "name+00000000+" + base64.b64encode(b"\x01" + bytes(31)).decode(),
        "name+00000000+" + base64.b64encode(b"\x09" + bytes(32)).decode(),
        "na me+00000000+" + base64.b64encode(b"\x01" + bytes(32)).decode(),
        "+00000000+" + base64.b64encode(b"\x01" + bytes(32)).decode(),
        EXAMPLE_KEY.replace("530d903a", "530d903b"),
        EXAMPLE_KEY + "=",
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    """One thing wrong each."""
    with pytest.raises(NoteFormError, match="key"):
        parse_vkey(text)


def test_verifier_key_of_another_kind_is_refused() -> None:
    """A log's key is no witness's."""
    with pytest.raises(NoteFormError, match="expected NAME"):
        parse_vkey(EXAMPLE_KEY, kind=SignatureKind.COSIGNATURE)
    assert parse_vkey(str(WITNESS.key), kind=SignatureKind.COSIGNATURE) == WITNESS.key


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\x00b", "x" * 201])
def test_name_of_a_key_has_no_space_plus_or_control_character(name: str) -> None:
    """Unicode's spaces included."""
    with pytest.raises(NoteFormError, match="key name"):
        check_name(name)
