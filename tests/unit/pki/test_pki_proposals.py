"""Proposals: read strictly, reviewed against what is in force, signed by those whose signatures count."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import Signature, SSlibKey
from tuf.api.metadata import Targets

from pki import proposals
from pki.errors import (
    MetadataExpiredError,
    MetadataLengthError,
    MetadataVersionError,
    ProposalError,
    ProposalSignatureError,
    SignerRefusedError,
)
from pki.metadata import (
    BINS_ROLE,
    Delegation,
    add_signature,
    content_target,
    next_root,
    role_delegations,
    targets_metadata,
)
from pki.proposal_review import InForce, Quorum, RoleChange, review_proposal, sign_proposal
from pki.proposals import (
    Proposal,
    ProposedRelease,
    ProposedRepository,
    encode_proposal,
    parse_proposal,
    read_proposal,
    write_proposal,
)
from protocol.document import DocumentError, canonical_json
from protocol.signing import SoftwareSigner, tuf_key
from protocol.updates import MAX_ROOT_BYTES, MAX_TARGETS_BYTES
from tests.unit.pki.proposal_builder import (
    EXPIRES,
    IMAGE,
    NOW,
    TEAM_PATHS,
    Fleet,
    edited,
    keys_of,
    release,
    root_of,
    signers,
    targets_of,
)

FLEET = Fleet()
ADA, BEN, EVE = FLEET.people
OTHER = content_target("images/m4-0/model/b.img", b"another package")
TEAM_IMAGE = content_target("images/m4-1/model/t.img", b"of the team")
WITH_IMAGE = FLEET.proposal({Targets.type: FLEET.targets([IMAGE, OTHER])})


def key_id(signer: SoftwareSigner) -> str:
    return tuf_key(signer.public_key).keyid


def test_proposal_is_written_and_read(tmp_path: Path) -> None:
    """The same proposal comes back; the file is canonical."""
    path = tmp_path / "a.proposal.json"
    write_proposal(path, WITH_IMAGE)
    assert read_proposal(path) == WITH_IMAGE
    assert path.read_bytes() == encode_proposal(WITH_IMAGE)


_FILE = encode_proposal(WITH_IMAGE)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_FILE[:-10], id="truncated"),
        pytest.param(_FILE + b"\n", id="extended"),
        pytest.param(_FILE.replace(b'"purpose"', b'"porpose"'), id="other field"),
        pytest.param(_FILE.replace(b"proposal-1", b"proposal-2"), id="other format"),
        pytest.param(_FILE.replace(b'"image"', b'"images"'), id="other repository"),
        pytest.param(_FILE.replace(b'"targets"', b'"../targets"'), id="other role"),
        pytest.param(json.dumps(json.loads(_FILE)).encode(), id="other spelling"),
        pytest.param(b"[" * 100_000, id="nested"),
        pytest.param(b"", id="empty"),
    ],
)
def test_malformed_file_is_refused(content: bytes) -> None:
    """Truncated, extended, of another form or spelling."""
    with pytest.raises(ProposalError, match="expected"):
        parse_proposal(content)


@given(st.binary(max_size=300))
def test_any_bytes_give_our_error(content: bytes) -> None:
    """Nothing else escapes."""
    with pytest.raises(ProposalError, match="expected a proposal"):
        parse_proposal(content)


def test_unreadable_file_is_refused(tmp_path: Path) -> None:
    """There is none."""
    with pytest.raises(ProposalError, match="expected a readable proposal, found: No such file"):
        read_proposal(tmp_path / "missing.json")


def test_file_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is written, and when it is read."""
    path = tmp_path / "a.proposal.json"
    write_proposal(path, WITH_IMAGE)
    monkeypatch.setattr(proposals, "MAX_PROPOSAL_BYTES", 100)
    with pytest.raises(ProposalError, match="proposal: expected at most 100 bytes"):
        write_proposal(path, WITH_IMAGE)
    with pytest.raises(ProposalError, match="expected at most 100 bytes, found 101"):
        read_proposal(path)


def test_review_says_what_changes_and_who_is_missing() -> None:
    """Two of three must sign."""
    review = FLEET.review(WITH_IMAGE)
    assert (dict(review.versions), dict(review.expiries)) == ({"targets": 2}, {"targets": EXPIRES})
    assert (dict(review.added), dict(review.moved), review.roles, review.fields) == (
        {OTHER.path: "targets"},
        {},
        (),
        (),
    )
    keys = tuple(map(key_id, FLEET.people))
    assert review.quorums == (Quorum("targets", "root version 1", 2, keys, ()),)
    assert (review.is_complete, review.lacking[0].missing) == (False, 2)


def test_people_sign_one_after_the_other() -> None:
    """Two are enough; the same one twice is not."""
    first = FLEET.review(sign_proposal(FLEET.review(WITH_IMAGE), ADA))
    assert (first.lacking[0].signed, first.is_complete) == ((key_id(ADA),), False)
    with pytest.raises(SignerRefusedError, match=f"expected a key whose signature is missing .*{key_id(BEN)[:12]}"):
        sign_proposal(first, ADA)
    second = FLEET.review(sign_proposal(first, BEN))
    assert (second.is_complete, second.lacking) == (True, ())
    assert FLEET.review(sign_proposal(second, EVE)).is_complete
    with pytest.raises(SignerRefusedError, match=r"is missing \(none is\)"):
        sign_proposal(second, SoftwareSigner.generate())


def test_key_that_does_not_count_signs_nothing() -> None:
    """Neither a stranger's nor a team's key."""
    for signer in (SoftwareSigner.generate(), FLEET.team):
        with pytest.raises(SignerRefusedError, match="found"):
            sign_proposal(FLEET.review(WITH_IMAGE), signer)


def test_signature_of_a_stranger_is_refused() -> None:
    """Somebody put one into the file, perhaps with a key that has been removed since."""
    forged = add_signature(WITH_IMAGE.metadata["targets"], SoftwareSigner.generate())
    with pytest.raises(ProposalSignatureError, match="targets: expected signatures by its keys alone, found one by"):
        FLEET.review(FLEET.proposal({"targets": forged}))


def test_edited_file_is_refused() -> None:
    """What it says was changed after somebody signed it."""
    signed = add_signature(WITH_IMAGE.metadata["targets"], ADA)
    changed = signed.replace(OTHER.hashes["sha256"].encode(), b"0" * 64)
    with pytest.raises(ProposalSignatureError, match="signed what the file says now, found another signature"):
        FLEET.review(FLEET.proposal({"targets": changed}))


def test_forged_signature_is_refused() -> None:
    """Under the key id of somebody whose signature counts."""
    forged = edited(
        WITH_IMAGE.metadata["targets"],
        lambda file: file.signatures.update({key_id(ADA): Signature(key_id(ADA), "30" * 70)}),
    )
    with pytest.raises(ProposalSignatureError, match=f"expected that {key_id(ADA)[:12]} signed"):
        FLEET.review(FLEET.proposal({"targets": forged}))


@pytest.mark.parametrize(
    ("role", "content", "message"),
    [
        pytest.param(
            "timestamp", b"{}", "roles of the image repository that people sign, found timestamp", id="online"
        ),
        pytest.param("snapshot", b"{}", "found snapshot", id="snapshot"),
        pytest.param("targets", b"{}", "targets: expected TUF metadata, found other bytes", id="form"),
        pytest.param("targets", FLEET.root_file, "targets: expected targets metadata, found root", id="type"),
        pytest.param("root", FLEET.targets([]), "root: expected root metadata, found targets", id="type of root"),
        pytest.param(
            "strangers", FLEET.targets([]), "expected roles that are delegated to, found strangers", id="name"
        ),
        pytest.param(
            "targets",
            FLEET.targets([IMAGE]).replace(b'"expires"', b'"x":1.5,"expires"'),
            "expected TUF metadata",
            id="fractions",
        ),
    ],
)
def test_wrong_role_file_is_refused(role: str, content: bytes, message: str) -> None:
    """Step 1: roles."""
    with pytest.raises(ProposalError, match=message):
        FLEET.review(FLEET.proposal({role: content}))


def test_file_that_devices_would_not_read_to_its_end_is_refused() -> None:
    """Before anybody signs it, with the way out."""
    with pytest.raises(MetadataLengthError, match=r"targets: expected at most 4194304 bytes.* metadata bins"):
        FLEET.review(FLEET.proposal({"targets": b"x" * (MAX_TARGETS_BYTES + 1)}))
    with pytest.raises(MetadataLengthError, match="root: expected at most 65536 bytes"):
        FLEET.review(FLEET.proposal({"root": b"x" * (MAX_ROOT_BYTES + 1)}))


def test_director_takes_roots_alone() -> None:
    """Its targets are signed online, for one device at a time."""
    proposal = FLEET.proposal({"targets": FLEET.targets([])}, repository=ProposedRepository.DIRECTOR)
    with pytest.raises(ProposalError, match="roles of the director repository that people sign, found targets"):
        review_proposal(proposal, InForce(FLEET.in_force.root), now=NOW)
    root = FLEET.proposal({"root": FLEET.next_root({})}, repository=ProposedRepository.DIRECTOR)
    assert review_proposal(root, InForce(FLEET.in_force.root), now=NOW).versions == {"root": 2}


@pytest.mark.parametrize("version", [1, 3])
def test_other_version_is_refused(version: int) -> None:
    """Step 2: somebody else was first, or a version is left out."""
    with pytest.raises(MetadataVersionError, match=f"targets: expected version 2, found {version}; make the proposal"):
        FLEET.review(FLEET.proposal({"targets": FLEET.targets([IMAGE], version=version)}))


def test_role_that_comes_back_goes_on_where_it_was() -> None:
    """Versions never fall, not even of a role that was not delegated to for a while."""
    delegated = role_delegations([FLEET.team_delegation, Delegation("audio", (ADA.public_key,), 1, ("x/*",))])
    files = {
        "targets": FLEET.targets([IMAGE], delegations=delegated),
        "audio": targets_metadata([], version=1, expires=EXPIRES),
    }
    assert FLEET.review(FLEET.proposal(files)).versions["audio"] == 1
    before = InForce(FLEET.in_force.root, FLEET.in_force.roles, {"audio": 4, "targets": 1})
    with pytest.raises(MetadataVersionError, match="audio: expected version 5, found 1"):
        FLEET.review(FLEET.proposal(files), in_force=before)


def test_expired_file_is_refused() -> None:
    """Step 3."""
    with pytest.raises(MetadataExpiredError, match="targets: expected an expiry after"):
        FLEET.review(WITH_IMAGE, now=EXPIRES + timedelta(seconds=1))


def _renamed_key(file: object) -> None:
    root = file.signed  # type: ignore[attr-defined]
    stranger = tuf_key(SoftwareSigner.generate().public_key)
    known = root.roles["root"].keyids[0]
    root.keys[known] = SSlibKey(known, stranger.keytype, stranger.scheme, dict(stranger.keyval))


def _other_curve(file: object) -> None:
    root = file.signed  # type: ignore[attr-defined]
    key = SSlibKey.from_crypto(ec.generate_private_key(ec.SECP384R1()).public_key())
    root.keys[key.keyid] = key


def _no_key(file: object) -> None:
    file.signed.keys["a" * 64] = SSlibKey("a" * 64, "ecdsa", "ecdsa-sha2-nistp256", {"public": "none"})  # type: ignore[attr-defined]


@pytest.mark.parametrize("damage", [_renamed_key, _other_curve, _no_key])
def test_key_under_a_foreign_name_is_refused(damage: Callable[[object], None]) -> None:
    """Step 4: who reviews goes by key ids, so each must be the digest of its P-256 key."""
    content = edited(FLEET.next_root({}), damage)
    with pytest.raises(ProposalError, match="root: expected P-256 keys under the digests of their own"):
        FLEET.review(FLEET.proposal({"root": content}))


def test_threshold_that_cannot_be_met_is_refused() -> None:
    """Step 4: of a root, and of a delegation."""
    root = edited(FLEET.next_root({}), lambda file: setattr(file.signed.roles["root"], "threshold", 2))
    with pytest.raises(ProposalError, match="root: expected at least 2 keys for root, found 1 key ids"):
        FLEET.review(FLEET.proposal({"root": root}))
    team = role_delegations([FLEET.team_delegation])
    assert team.roles
    team.roles["vision"].threshold = 2
    with pytest.raises(ProposalError, match="targets: expected at least 2 keys for vision, found 1"):
        FLEET.review(FLEET.proposal({"targets": FLEET.targets([IMAGE], delegations=team)}))


def test_root_is_signed_by_old_and_new_keys() -> None:
    """From one of one to two of three; every key that changes is said."""
    new = signers(3)
    proposal = FLEET.proposal({"root": FLEET.next_root({"root": keys_of(*new, threshold=2)}, FLEET.root)})
    review = FLEET.review(proposal)
    assert [(each.delegator, each.missing) for each in review.quorums] == [
        ("root version 1", 0),
        ("new root version 2", 2),
    ]
    added = tuple(sorted(map(key_id, new)))
    assert review.roles == (RoleChange("root", added, (key_id(FLEET.root),), (1, 2)),)
    for signer in new[:2]:
        review = FLEET.review(sign_proposal(review, signer))
    assert review.is_complete


def test_targets_beside_a_root_are_signed_by_its_keys() -> None:
    """Both come into force at once, so that lost keys of targets can be replaced by the root's alone."""
    grace, heidi = signers(2)
    root = FLEET.next_root({"targets": keys_of(grace, heidi, threshold=2)}, FLEET.root)
    review = FLEET.review(FLEET.proposal({"root": root, "targets": FLEET.targets([IMAGE])}))
    assert [(each.role, each.delegator) for each in review.lacking] == [("targets", "new root version 2")]
    for signer in (grace, heidi):
        review = FLEET.review(sign_proposal(review, signer))
    assert review.is_complete


def test_new_field_of_the_root_is_said() -> None:
    """Such as the policy of the transparency log."""
    root = edited(FLEET.next_root({}), lambda file: file.signed.unrecognized_fields.update({"tinyfleet_log": {}}))
    assert FLEET.review(FLEET.proposal({"root": root})).fields == ("root: tinyfleet_log",)
    following = InForce(root_of(root))
    same = next_root(following.root, {}, expires=EXPIRES)
    assert FLEET.review(FLEET.proposal({"root": same}), in_force=following).fields == ()


def test_delegation_brings_its_first_file() -> None:
    """Both the delegator's people and the team sign."""
    audio = Delegation("audio", (EVE.public_key,), 1, ("images/m4-0/model/*",))
    files = {
        "targets": FLEET.targets([IMAGE], delegations=role_delegations([FLEET.team_delegation, audio])),
        "audio": targets_metadata([], version=1, expires=EXPIRES),
    }
    review = FLEET.review(FLEET.proposal(files))
    assert review.roles == (RoleChange("audio", (key_id(EVE),), (), (0, 1), ((), ("images/m4-0/model/*",))),)
    assert {(each.role, each.delegator) for each in review.quorums} == {
        ("targets", "root version 1"),
        ("audio", "targets version 2"),
    }


def test_role_whose_delegation_ends_hands_over_its_targets() -> None:
    """They go to `targets`; without them the proposal is refused."""
    before = InForce(
        FLEET.in_force.root,
        {
            "targets": FLEET.in_force.roles["targets"],
            "vision": targets_of(targets_metadata([TEAM_IMAGE], version=1, expires=EXPIRES)),
        },
    )
    ended = FLEET.proposal({"targets": FLEET.targets([IMAGE, TEAM_IMAGE], delegations=None)})
    review = FLEET.review(ended, in_force=before)
    assert dict(review.moved) == {TEAM_IMAGE.path: ("vision", "targets")}
    assert review.roles == (RoleChange("vision", (), (key_id(FLEET.team),), (1, 0), (TEAM_PATHS, ())),)
    lost = FLEET.proposal({"targets": FLEET.targets([IMAGE], delegations=None)})
    with pytest.raises(ProposalError, match="of vision: expected it as it is in force, found none"):
        FLEET.review(lost, in_force=before)


def test_team_lists_within_its_paths_alone() -> None:
    """Step 6."""
    inside = FLEET.proposal({"vision": targets_metadata([TEAM_IMAGE], version=2, expires=EXPIRES)})
    assert dict(FLEET.review(inside).added) == {TEAM_IMAGE.path: "vision"}
    outside = FLEET.proposal({"vision": targets_metadata([OTHER], version=2, expires=EXPIRES)})
    with pytest.raises(ProposalError, match=f"vision: expected targets that are delegated to it, found {OTHER.path}"):
        FLEET.review(outside)


def test_target_that_changes_or_vanishes_is_refused() -> None:
    """Step 6."""
    other = content_target(IMAGE.path, b"other bytes")
    with pytest.raises(ProposalError, match="of targets: expected it as it is in force, found another content"):
        FLEET.review(FLEET.proposal({"targets": FLEET.targets([other])}))
    with pytest.raises(ProposalError, match="found none"):
        FLEET.review(FLEET.proposal({"targets": FLEET.targets([])}))


def test_target_in_two_roles_is_refused() -> None:
    """Step 6."""
    files = {
        "targets": FLEET.targets([IMAGE, TEAM_IMAGE]),
        "vision": targets_metadata([TEAM_IMAGE], version=2, expires=EXPIRES),
    }
    with pytest.raises(ProposalError, match="expected it in one role, found it in"):
        FLEET.review(FLEET.proposal(files))


def test_hash_bins_take_over_what_targets_listed() -> None:
    """Each bin is reached from the top; a target in the wrong bin is not."""
    files = FLEET.binned(2)
    review = FLEET.review(FLEET.proposal(files))
    home = review.moved[IMAGE.path][1]
    assert (home.startswith("bin-"), review.versions[BINS_ROLE]) == (True, 1)
    assert {change.role for change in review.roles} == {"bin-*", BINS_ROLE}
    wrong = next(role for role in files if role.startswith("bin-") and role != home)
    empty, full = (targets_metadata(listed, version=1, expires=EXPIRES) for listed in ([], [IMAGE]))
    with pytest.raises(ProposalError, match=f"{wrong}: expected targets that are delegated to it"):
        FLEET.review(FLEET.proposal({**files, home: empty, wrong: full}))


def test_release_comes_with_its_document_and_its_way_back() -> None:
    """Both are returned, the way back last."""
    review = FLEET.review(FLEET.released(release("main", 1), release("main-way-back", 2, way_back_of="main")))
    assert [each.name for each in review.releases] == ["main", "main-way-back"]
    assert [each.name for each in FLEET.review(FLEET.released(release("main", 1))).releases] == ["main"]


@pytest.mark.parametrize(
    "back",
    [
        pytest.param(release("b", 2), id="none"),
        pytest.param(release("b", 2, way_back_of="other"), id="of another"),
        pytest.param(release("b", 3, way_back_of="main"), id="counter"),
    ],
)
def test_way_back_of_something_else_is_refused(back: object) -> None:
    """It names the release and follows it."""
    with pytest.raises(ProposalError, match="release b: expected the way back of main"):
        FLEET.review(FLEET.released(release("main", 1), back))  # type: ignore[arg-type]


def _with_documents(documents: dict[str, bytes], **changes: object) -> Proposal:
    return FLEET.released(release("main", 1)).model_copy(update={"documents": documents, **changes})


def test_document_that_is_not_listed_is_refused() -> None:
    """Step 7: what is read must be what is signed."""
    good = dict(FLEET.released(release("main", 1)).documents)
    name = next(iter(good))
    cases = [
        (_with_documents({}), "expected its document in the proposal, found none"),
        (_with_documents({name: good[name] + b" "}), "expected the content that is listed, found another"),
        (_with_documents({**good, "releases/9-x.json": b""}), "expected it among the new targets, found it is not"),
        (_with_documents(good, release=None), r"expected it to list the releases \[\], found"),
        (_with_documents(good, release=ProposedRelease(target="releases/2-x.json")), "expected it to list"),
    ]
    for proposal, message in cases:
        with pytest.raises(ProposalError, match=message):
            FLEET.review(proposal)


def test_release_document_under_another_name_is_refused() -> None:
    """Step 7: the name of the target says which release it is."""
    for content, error, message in (
        (canonical_json(release("other", 1)), ProposalError, "expected a document of this name, found other"),
        (b"{}", DocumentError, "ReleaseDocument"),
    ):
        name = "releases/1-main.json"
        listed = [IMAGE, content_target(name, content)]
        proposal = FLEET.proposal(
            {"targets": FLEET.targets(listed)}, release=ProposedRelease(target=name), documents={name: content}
        )
        with pytest.raises(error, match=message):
            FLEET.review(proposal)
