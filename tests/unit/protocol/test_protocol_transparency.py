"""What is logged of images and roots, whom a policy believes, and every way in which a proof is none."""

import dataclasses
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Root, TargetFile

from protocol.geometry import ImageKind
from protocol.merkle import InclusionError, TreeFormError, inclusion_ranges, leaf_hash, prove, range_hash, subtree_hash
from protocol.notes import Cosigner, Ed25519Signer, NoteSignature, NoteSignatureError, NoteSigner, UnverifiedNote
from protocol.tlog import Checkpoint, LogFormError, UnverifiedProof
from protocol.transparency import (
    LOG_FIELD,
    MAX_LOG_ENTRY_BYTES,
    ImageEntry,
    LogEntry,
    LogEntryError,
    LogKeyError,
    LogPolicy,
    LogPolicyError,
    OriginError,
    QuorumError,
    RootEntry,
    entry_bytes,
    entry_hash,
    image_entry,
    parse_entry,
    parse_policy,
    policy_field,
    policy_of,
    target_entry,
    verify_logged,
)
from protocol.updates import ImageCustom, UpdateMetadataError

SHA256, BOM = "ab" * 32, "cd" * 32
CUSTOM = ImageCustom(
    slot_kind=ImageKind.MODEL,
    hardware_ids=("mt3620-m4",),
    component_id="11111111-1111-4111-8111-111111111111",
    image_id="22222222-2222-4222-8222-222222222222",
    name="person@1.1.0",
    security_counter=2,
    bom=f"documents/bom/{BOM}.json",
)
TARGET = f"images/m4-1/model/{CUSTOM.image_id}.img"
ENTRY = image_entry(TARGET, CUSTOM, sha256=SHA256, length=1000)
AT = 1_700_000_000


def _key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


LOG = Ed25519Signer("tinyfleet/log", _key(1))
OTHER_LOG = Ed25519Signer("tinyfleet/log", _key(2))
WITNESSES = [Cosigner(f"witness.example/w{number}", _key(number)) for number in (3, 4, 5)]
STRANGER = Cosigner("witness.example/w9", _key(9))
POLICY = LogPolicy(
    origin=LOG.key.name, log=str(LOG.key), witnesses=tuple(str(each.key) for each in WITNESSES), quorum=2
)
OTHERS = [RootEntry(repository="image", version=number, sha256=SHA256) for number in range(1, 9)]


def _checkpoint(head: Checkpoint, log: NoteSigner = LOG, cosigners: list[Cosigner] | None = None) -> bytes:
    text = head.text()
    cosignatures = [each.sign(text, at=AT) for each in (WITNESSES[:2] if cosigners is None else cosigners)]
    return UnverifiedNote(text, (log.sign(text), *cosignatures)).encode()


def _proof(
    entry: LogEntry = ENTRY,
    *,
    origin: str = LOG.key.name,
    log: NoteSigner = LOG,
    cosigners: list[Cosigner] | None = None,
) -> UnverifiedProof:
    """Prove an entry that is the sixth of nine."""
    leaves = [entry_hash(each) for each in (*OTHERS[:5], entry, *OTHERS[5:])]
    tree = [(0, len(leaves))]

    def read(node: object) -> bytes:
        height, index = dataclasses.astuple(node)  # type: ignore[call-overload]  # a Node
        return subtree_hash(leaves[index << height : (index + 1) << height])

    head = Checkpoint(origin, len(leaves), range_hash(tree[0], read))
    hashes = tuple(prove(inclusion_ranges(5, len(leaves)), read))
    return UnverifiedProof(5, hashes, _checkpoint(head, log, cosigners))


def test_image_is_proven_logged() -> None:
    """By the log and two of three witnesses."""
    verified = verify_logged(ENTRY, _proof().encode(), POLICY)
    assert verified.checkpoint.size == 9
    assert verified.witnessed == {"witness.example/w3": AT, "witness.example/w4": AT}


def test_entry_says_what_the_metadata_says() -> None:
    """Canonical JSON, and the same from a target."""
    content = json.dumps({"custom": CUSTOM.model_dump(mode="json")})
    target = TargetFile(1000, {"sha256": SHA256}, TARGET, json.loads(content))
    assert target_entry(target) == ENTRY
    assert json.loads(entry_bytes(ENTRY)) == {
        "kind": "image",
        "target": TARGET,
        "name": "person@1.1.0",
        "sha256": SHA256,
        "length": 1000,
        "slot_kind": "model",
        "hardware_ids": ["mt3620-m4"],
        "security_counter": 2,
        "bom": BOM,
    }
    assert parse_entry(entry_bytes(ENTRY)) == ENTRY
    assert parse_entry(entry_bytes(OTHERS[0])) == OTHERS[0]
    assert entry_hash(ENTRY) == leaf_hash(entry_bytes(ENTRY))
    without = image_entry(TARGET, CUSTOM.model_copy(update={"bom": None}), sha256=SHA256, length=1)
    assert without.bom is None


def test_metadata_without_what_an_entry_says_is_refused() -> None:
    """No digest, a bill of materials that is none, no custom metadata."""
    with pytest.raises(LogEntryError, match="target images/m4-1"):
        image_entry(TARGET, CUSTOM, sha256="", length=1)
    with pytest.raises(LogEntryError, match="target images/m4-1"):
        image_entry(TARGET, CUSTOM.model_copy(update={"bom": "documents/vex/x.json"}), sha256=SHA256, length=1)
    with pytest.raises(UpdateMetadataError):
        target_entry(TargetFile(1, {"sha256": SHA256}, TARGET))


@pytest.mark.parametrize(
    "unverified",
    [b"", b"{}", b'{"kind":"other"}', entry_bytes(ENTRY) + b" ", b"x" * (MAX_LOG_ENTRY_BYTES + 1)],
)
def test_what_is_no_entry_is_refused(unverified: bytes) -> None:
    """Another spelling of the same is none either."""
    with pytest.raises(LogEntryError, match="entry: "):
        parse_entry(unverified)


@pytest.mark.parametrize(
    "change",
    [{"sha256": "00" * 32}, {"security_counter": 3}, {"hardware_ids": ("other",)}, {"bom": None}, {"length": 999}],
)
def test_proof_of_another_image_is_refused(change: dict[str, object]) -> None:
    """Every fact of the leaf counts."""
    with pytest.raises(InclusionError, match="expected root"):
        verify_logged(ENTRY.model_copy(update=change), _proof().encode(), POLICY)


def test_proof_at_another_index_is_refused() -> None:
    """Or at one that the tree has not."""
    with pytest.raises(InclusionError):
        verify_logged(ENTRY, dataclasses.replace(_proof(), index=4).encode(), POLICY)
    with pytest.raises(TreeFormError):
        verify_logged(ENTRY, dataclasses.replace(_proof(), index=9).encode(), POLICY)


def test_checkpoint_of_another_log_is_refused() -> None:
    """Another origin, or another key under the same name."""
    both = Ed25519Signer("another/log", _key(1))
    note = _proof(origin="another/log", log=both)
    with pytest.raises(OriginError, match="expected origin 'tinyfleet/log', found 'another/log'"):
        verify_logged(ENTRY, note.encode(), POLICY)
    with pytest.raises(LogKeyError, match="expected a signature by tinyfleet/log"):
        verify_logged(ENTRY, _proof(log=OTHER_LOG).encode(), POLICY)


def test_false_signature_of_the_log_is_refused() -> None:
    """Under the right name and key ID."""
    signed = LOG.sign("something else\n")

    class Forger:
        key = LOG.key

        def sign(self, text: str) -> NoteSignature:
            del text
            return signed

    with pytest.raises(NoteSignatureError):
        verify_logged(ENTRY, _proof(log=Forger()).encode(), POLICY)


@pytest.mark.parametrize(
    "cosigners",
    [[], WITNESSES[:1], [WITNESSES[0], WITNESSES[0]], [WITNESSES[0], STRANGER]],
    ids=["none", "one", "one twice", "one and a stranger"],
)
def test_too_few_witnesses_are_refused(cosigners: list[Cosigner]) -> None:
    """A quorum is of different witnesses of the policy."""
    with pytest.raises(QuorumError, match="expected 2 of 3 witnesses, found"):
        verify_logged(ENTRY, _proof(cosigners=cosigners).encode(), POLICY)


def test_what_is_no_proof_is_refused() -> None:
    """Step 1."""
    with pytest.raises(LogFormError):
        verify_logged(ENTRY, b"", POLICY)


def test_policy_travels_in_the_root() -> None:
    """And a root without the field has none."""
    root = Root(unrecognized_fields=policy_field(POLICY))
    assert policy_of(root) == POLICY
    assert policy_of(Root()) is None
    with pytest.raises(LogPolicyError, match="log policy"):
        policy_of(Root(unrecognized_fields={LOG_FIELD: "nothing"}))


_FIELD = policy_field(POLICY)[LOG_FIELD]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"origin": "other"}, "expected the log's key to be named 'other'"),
        ({"log": "nothing"}, "verifier key"),
        ({"log": POLICY.witnesses[0]}, "verifier key"),
        ({"witnesses": [str(LOG.key)]}, "verifier key"),
        ({"witnesses": [POLICY.witnesses[0]] * 2}, "expected every key and name once"),
        ({"witnesses": [str(Cosigner("w", _key(1)).key)], "quorum": 1}, "expected every key and name once"),
        (
            {"witnesses": [str(Cosigner("w", _key(3)).key), str(Cosigner("w", _key(4)).key)]},
            "expected every key and name",
        ),
        ({"quorum": 4}, "expected a quorum of at most 3 witnesses, found 4"),
        ({"quorum": -1}, "greater than or equal to 0"),
        ({"further": 1}, "Extra inputs"),
        ({"quorum": object}, "not JSON serializable"),
    ],
)
def test_policy_that_contradicts_itself_is_refused(change: dict[str, object], expected: str) -> None:
    """One thing wrong each."""
    assert isinstance(_FIELD, dict)
    with pytest.raises(LogPolicyError, match=expected):
        parse_policy({**_FIELD, **change})


def test_image_entry_is_a_document() -> None:
    """Unknown fields are refused."""
    with pytest.raises(LogEntryError, match="Extra"):
        parse_entry(json.dumps({**ENTRY.model_dump(mode="json"), "more": 1}).encode())
    assert isinstance(ENTRY, ImageEntry)
