"""Checkpoints, proofs and requests to witnesses as text, both ways."""

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.errors import MalformedError
from protocol.notes import Cosigner, Ed25519Signer, UnverifiedNote
from protocol.tlog import (
    MAX_EXTRA_BYTES,
    MAX_PROOF_BYTES,
    AddCheckpoint,
    Checkpoint,
    LogFormError,
    UnverifiedProof,
    parse_add_checkpoint,
    parse_checkpoint,
    parse_decimal,
    parse_proof,
    with_signatures,
)

# C2SP tlog-checkpoint, the first example.
EXAMPLE = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
ROOT = base64.b64decode("CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=")
LOG = Ed25519Signer("example.com/behind-the-sofa", Ed25519PrivateKey.from_private_bytes(bytes(32)))
NOTE = UnverifiedNote(EXAMPLE, (LOG.sign(EXAMPLE),)).encode()
HASHES = (bytes(32), bytes([1]) * 32)


def test_checkpoint_of_the_specification_is_read_and_written() -> None:
    """Byte for byte."""
    checkpoint = parse_checkpoint(EXAMPLE)
    assert checkpoint == Checkpoint("example.com/behind-the-sofa", 20852163, ROOT)
    assert checkpoint.text() == EXAMPLE
    extended = parse_checkpoint(EXAMPLE + "more\n")
    assert (extended.extensions, extended.text()) == (("more",), EXAMPLE + "more\n")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n",
        "origin\n3\n",
        EXAMPLE.rstrip("\n"),
        "\n" + EXAMPLE,
        EXAMPLE + "\n",
        EXAMPLE.replace("20852163", "020852163"),
        EXAMPLE.replace("20852163", "-1"),
        EXAMPLE.replace("20852163", str((1 << 62) + 1)),
        EXAMPLE.replace("20852163", "9" * 30),
        EXAMPLE.replace("=", ""),
        EXAMPLE.replace("q2I=", "q2J="),
        EXAMPLE.replace("CsUY", ""),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """One thing wrong each."""
    with pytest.raises(LogFormError):
        parse_checkpoint(text)


@pytest.mark.parametrize("extra", [b"", b"opaque"])
def test_proof_is_read_as_it_was_written(extra: bytes) -> None:
    """With and without extra data."""
    proof = UnverifiedProof(7, HASHES, NOTE, extra)
    assert parse_proof(proof.encode()) == proof
    assert proof.encode().startswith(b"c2sp.org/tlog-proof@v1\n")


def _proof(head: str, note: bytes = NOTE) -> bytes:
    return head.encode() + b"\n" + note


@pytest.mark.parametrize(
    "unverified",
    [
        b"x" * (MAX_PROOF_BYTES + 1),
        b"c2sp.org/tlog-proof@v1\nindex 0\n",
        _proof("c2sp.org/tlog-proof@v2\nindex 0\n"),
        _proof("c2sp.org/tlog-proof@v1\n"),
        _proof("c2sp.org/tlog-proof@v1\nextra AAAA\n"),
        _proof("c2sp.org/tlog-proof@v1\nindex 00\n"),
        _proof("c2sp.org/tlog-proof@v1\nleaf 0\n"),
        _proof("c2sp.org/tlog-proof@v1\nextra \nindex 0\n"),
        _proof("c2sp.org/tlog-proof@v1\nextra ?\nindex 0\n"),
        _proof(f"c2sp.org/tlog-proof@v1\nextra {base64.b64encode(bytes(MAX_EXTRA_BYTES + 1)).decode()}\nindex 0\n"),
        _proof("c2sp.org/tlog-proof@v1\nindex 0\nAAAA\n"),
        _proof("c2sp.org/tlog-proof@v1\nindex 0\n" + (base64.b64encode(bytes(32)).decode() + "\n") * 64),
        _proof("c2sp.org/tlog-proof@v1\nindex ٣\n"),
        _proof("c2sp.org/tlog-proof@v1\nindex 0\n", b"no note"),
        _proof("c2sp.org/tlog-proof@v1\nindex 0\n", NOTE.replace(b"20852163", b"none")),
    ],
)
def test_what_is_no_proof_is_refused(unverified: bytes) -> None:
    """One thing wrong each."""
    with pytest.raises(MalformedError):
        parse_proof(unverified)


def test_request_to_a_witness_is_read_as_it_was_written() -> None:
    """C2SP tlog-witness, add-checkpoint."""
    request = AddCheckpoint(20852014, HASHES, NOTE)
    assert parse_add_checkpoint(request.encode()) == request
    assert request.encode().startswith(b"old 20852014\n")
    with pytest.raises(LogFormError, match="expected a line 'old'"):
        parse_add_checkpoint(request.encode()[1:])


def test_cosignatures_are_added_once_and_bounded() -> None:
    """A checkpoint keeps those that it has."""
    witness = Cosigner("w", Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32))
    cosigned = with_signatures(NOTE, [witness.sign(EXAMPLE, at=1)])
    assert with_signatures(cosigned, [LOG.sign(EXAMPLE)]) == cosigned
    with pytest.raises(LogFormError, match="expected at most 32 signatures, found 41"):
        with_signatures(NOTE, [witness.sign(EXAMPLE, at=at) for at in range(1, 41)])


def test_largest_number_is_a_tree_of_two_to_the_62() -> None:
    """Larger ones cannot be proven in 63 hashes by everybody."""
    assert parse_decimal(str(1 << 62)) == 1 << 62
