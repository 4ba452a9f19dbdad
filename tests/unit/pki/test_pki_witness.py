"""What a witness cosigns, what it refuses and with which status, and what it remembers."""

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typing_extensions import override

from pki.errors import WitnessRefusedError, WitnessStateError
from pki.witness import CheckpointWitness, WitnessState
from protocol.merkle import EMPTY_ROOT, Node, consistency_ranges, leaf_hash, prove, range_hash, subtree_hash
from protocol.notes import Cosigner, Ed25519Signer, NoteSigner, UnverifiedNote, parse_signatures, verify_signatures
from protocol.tlog import AddCheckpoint, Checkpoint

LOG = Ed25519Signer("tinyfleet/log", Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
FORGER = Ed25519Signer("tinyfleet/log", Ed25519PrivateKey.from_private_bytes(bytes([2]) * 32))
FOREIGN = Ed25519Signer("other/log", Ed25519PrivateKey.from_private_bytes(bytes([3]) * 32))
WITNESS = Cosigner("witness.example/w1", Ed25519PrivateKey.from_private_bytes(bytes([4]) * 32))
ORIGIN_SHA256 = hashlib.sha256(LOG.key.name.encode()).hexdigest()
LEAVES = [leaf_hash(str(number).encode()) for number in range(40)]
FORKED = [*LEAVES[:5], leaf_hash(b"forked"), *LEAVES[6:]]
AT = 1_700_000_000


def _request(
    size: int, *, old_size: int, leaves: list[bytes] = LEAVES, log: NoteSigner = LOG, root: bytes | None = None
) -> bytes:
    def read(node: Node) -> bytes:
        return subtree_hash(leaves[node.index << node.height : (node.index + 1) << node.height])

    text = Checkpoint(log.key.name, size, root or range_hash((0, size), read)).text()
    hashes = prove(consistency_ranges(old_size, size), read) if old_size <= size else []
    return AddCheckpoint(old_size, tuple(hashes), UnverifiedNote(text, (log.sign(text),)).encode()).encode()


@pytest.fixture
def witness(tmp_path: Path) -> CheckpointWitness:
    """A witness that has cosigned ten entries."""
    made = CheckpointWitness(WITNESS, [LOG.key], WitnessState(tmp_path / "state"))
    made.add_checkpoint(_request(10, old_size=0), at=AT)
    return made


def _refused(witness: CheckpointWitness, body: bytes) -> tuple[int, int | None]:
    before = witness.checkpoint(ORIGIN_SHA256)
    with pytest.raises(WitnessRefusedError) as refused:
        witness.add_checkpoint(body, at=AT)
    assert witness.checkpoint(ORIGIN_SHA256) == before
    return refused.value.status, refused.value.size


def test_log_that_grows_is_cosigned(witness: CheckpointWitness) -> None:
    """And the same size again, with a later time."""
    for size, old_size in ((25, 10), (25, 25), (40, 25)):
        line = witness.add_checkpoint(_request(size, old_size=old_size), at=AT + size)
        kept = witness.checkpoint(ORIGIN_SHA256)
        assert kept is not None
        text = kept.decode().partition("\n\n")[0] + "\n"
        signed_by, _ = verify_signatures(text, parse_signatures(line), [WITNESS.key])
        assert signed_by == {WITNESS.key: AT + size}
        assert kept.decode().endswith(line)


def test_what_was_cosigned_outlives_the_process(witness: CheckpointWitness, tmp_path: Path) -> None:
    """Another process goes on where this one stopped."""
    witness.add_checkpoint(_request(25, old_size=10), at=AT)
    again = CheckpointWitness(WITNESS, [LOG.key], WitnessState(tmp_path / "state"))
    assert _refused(again, _request(40, old_size=10)) == (409, 25)
    again.add_checkpoint(_request(40, old_size=25), at=AT)


def test_old_size_that_is_not_the_witness_s_is_a_conflict(witness: CheckpointWitness) -> None:
    """It says which one is."""
    assert _refused(witness, _request(25, old_size=0)) == (409, 10)
    assert _refused(witness, _request(25, old_size=12)) == (409, 10)


def test_log_that_is_rolled_back_is_refused(witness: CheckpointWitness) -> None:
    """A shorter log, said to be old or new."""
    assert _refused(witness, _request(8, old_size=10))[0] == 400
    assert _refused(witness, _request(8, old_size=8)) == (409, 10)
    assert _refused(witness, _request(8, old_size=0)) == (409, 10)


def test_log_that_forks_is_refused(witness: CheckpointWitness) -> None:
    """At the same size, and beyond it."""
    assert _refused(witness, _request(10, old_size=10, leaves=FORKED))[0] == 422
    assert _refused(witness, _request(25, old_size=10, leaves=FORKED))[0] == 422


def test_log_of_nobody_is_refused(witness: CheckpointWitness) -> None:
    """Another origin, another key, a false signature."""
    assert _refused(witness, _request(25, old_size=10, log=FOREIGN))[0] == 404
    assert _refused(witness, _request(25, old_size=10, log=FORGER))[0] == 403
    spoilt = bytearray(_request(25, old_size=10))
    spoilt[-8] ^= 1
    assert _refused(witness, bytes(spoilt))[0] == 403


def test_what_is_no_request_is_refused(witness: CheckpointWitness) -> None:
    """Step 1."""
    assert _refused(witness, b"old 10\n")[0] == 400


def test_empty_log_has_the_empty_root(tmp_path: Path) -> None:
    """And no other."""
    witness = CheckpointWitness(WITNESS, [LOG.key], WitnessState(tmp_path))
    assert _refused(witness, _request(0, old_size=0, root=bytes(32)))[0] == 422
    witness.add_checkpoint(_request(0, old_size=0, root=EMPTY_ROOT), at=AT)
    witness.add_checkpoint(_request(3, old_size=0), at=AT)


def test_log_that_the_witness_does_not_know_has_no_checkpoint(witness: CheckpointWitness) -> None:
    """Whatever name is asked for."""
    assert witness.checkpoint("../" + ORIGIN_SHA256) is None


def test_damaged_state_cosigns_nothing(witness: CheckpointWitness, tmp_path: Path) -> None:
    """A log could begin anew."""
    path = tmp_path / "state" / ORIGIN_SHA256 / "checkpoint"
    text = Checkpoint(LOG.key.name, 3, EMPTY_ROOT).text()
    for content in (b"", UnverifiedNote(text, (LOG.sign(text),)).encode()):
        path.write_bytes(content)
        with pytest.raises(WitnessStateError, match="expected a checkpoint"):
            witness.add_checkpoint(_request(25, old_size=10), at=AT)
    path.unlink()
    path.mkdir()
    with pytest.raises(WitnessStateError, match="expected to read"):
        witness.add_checkpoint(_request(25, old_size=10), at=AT)


def test_what_cannot_be_kept_is_not_cosigned(tmp_path: Path) -> None:
    """The signature leaves after the disk has it."""
    (tmp_path / ORIGIN_SHA256).write_bytes(b"a file where a folder must be")
    witness = CheckpointWitness(WITNESS, [LOG.key], _Unwritable(tmp_path))
    with pytest.raises(WitnessStateError, match="expected to keep what it cosigns"):
        witness.add_checkpoint(_request(10, old_size=0), at=AT)


class _Unwritable(WitnessState):
    @override
    def read(self, origin_sha256: str) -> None:
        """Nothing was cosigned."""
