"""Delegated roles: built, signed, verified, refused; hash bins; thresholds of different keys."""

import json
from collections.abc import Callable

import pytest
from tuf.api.metadata import Delegations, Metadata, Root, Targets

from pki.errors import (
    DelegationError,
    MetadataLengthError,
    MetadataSignatureError,
    MetadataVersionError,
    RepositoryError,
)
from pki.metadata import (
    BINS_ROLE,
    DELTAS_ROLE,
    Delegation,
    add_signature,
    bin_delegations,
    content_target,
    image_root,
    next_root,
    public_key_of,
    role_delegations,
    root_metadata,
    targets_metadata,
)
from pki.next_state import (
    asks_others,
    bin_names,
    dropped,
    listing_change,
    reaches,
    redelegated,
    trusted,
    trusted_delegators,
    verify_delegators,
    verify_kept,
    verify_next,
)
from pki.next_versions import bins_of, delegations_of, deltas_delegation, next_delegations
from pki.repository import (
    RepositoryInForce,
    count_signatures,
    delegated_roles,
    verify_delegated,
    verify_listings,
    verify_root,
    verify_targets,
)
from protocol.signing import tuf_key
from protocol.updates import MAX_TARGETS_BYTES
from tests.answering_roles import next_targets
from tests.unit.pki.pki_builder import NOW, OpaqueSigner
from tests.unit.pki.repository_builder import EXPIRES, Roles, keys_of

MODEL = content_target("images/m4-1/model/a.img", b"model")
APPLICATION = content_target("images/a7/application/b.img", b"application")
RELEASE = content_target("releases/1-first.json", b"{}")
MODELS = ("images/m4-1/model/*",)


def team(roles: Roles, name: str = "vision", *, count: int = 1, threshold: int = 1) -> Delegation:
    """Make a team and have it sign from now on."""
    people = [OpaqueSigner() for _ in range(count)]
    roles.teams[name] = people[:threshold]
    return Delegation(name, tuple(person.public_key for person in people), threshold, MODELS)


def with_team(*, bins: bool = False, count: int = 1, threshold: int = 1) -> Roles:
    """A repository whose team may sign models, with a model, an application and a release in force."""
    roles = Roles()
    patches = deltas_delegation(roles.in_force().root)
    files = next_delegations(
        roles.in_force(),
        [patches, team(roles, count=count, threshold=threshold)],
        bins=roles.bins() if bins else None,
        expires=EXPIRES,
    )
    roles.publish(roles.sign(files))
    roles.publish_deltas()
    roles.publish(roles.sign(next_targets(roles.in_force(), [MODEL, APPLICATION, RELEASE], expires=EXPIRES)))
    return roles


def test_new_target_goes_where_a_device_looks() -> None:
    """The team's into its role, others into targets, or into the bin of their name."""
    plain, binned = with_team().in_force(), with_team(bins=True).in_force()
    assert [plain.role_for(each.path) for each in (MODEL, APPLICATION, RELEASE)] == ["vision", "targets", "targets"]
    assert MODEL.path in plain.delegated["vision"].targets
    assert binned.role_for(APPLICATION.path) in {"bin-0", "bin-1"}
    assert APPLICATION.path in binned.delegated[binned.role_for(APPLICATION.path)].targets
    assert list(binned.targets.targets) == [RELEASE.path]
    for state in (plain, binned):
        assert [state.find(each.path) for each in (MODEL, APPLICATION, RELEASE)] == [MODEL, APPLICATION, RELEASE]
        assert state.find("images/a7/application/none.img") is None


def test_role_that_is_not_here_is_never_taken_for_empty() -> None:
    """What is withheld cannot pass for what does not exist."""
    roles = with_team(bins=True)
    without_team, without_bins = roles.in_force("bins", "bin-0", "bin-1"), roles.in_force("vision")
    with pytest.raises(RepositoryError, match="vision: expected its metadata beside the targets', found none"):
        without_team.find(MODEL.path)
    with pytest.raises(RepositoryError, match="bins: expected its metadata"):
        without_bins.role_for(APPLICATION.path)
    with pytest.raises(RepositoryError, match="bins: expected its metadata"):
        without_bins.delegates_to("bin-0")


def test_every_role_names_its_delegator() -> None:
    """Root, targets, bins; and nobody for a role that there is not."""
    state = with_team(bins=True).in_force()
    assert state.delegator_of("targets") is state.root
    assert state.delegator_of("vision") is state.targets
    assert state.delegator_of("bin-1") is state.delegated[BINS_ROLE]
    assert [state.delegates_to(role) for role in ("targets", "vision", "bin-1", "bin-2", "audio")] == [
        True, True, True, False, False,
    ]  # fmt: skip
    with pytest.raises(DelegationError, match="audio: expected a role that targets delegates to"):
        state.delegator_of("audio")
    with pytest.raises(DelegationError, match="timestamp: expected a role that targets delegates to"):
        verify_delegated(b"{}", delegator=state.root, role="timestamp", now=NOW)


def test_listings_are_verified_by_their_signatures_alone() -> None:
    """Team, bins and targets long after they have expired; a role of which one byte is other is refused."""
    roles = with_team(bins=True)
    state = verify_listings(roles.files, trusted_root=roles.trusted_root, newer_roots=[])
    assert MODEL.path in state.metadata_of("vision").targets
    assert APPLICATION.path in state.metadata_of(state.role_for(APPLICATION.path)).targets
    forged = {**roles.files, "vision": roles.files["vision"].replace(b"2026", b"2027", 1)}
    for files in (forged, {**roles.files, "audio": roles.files["vision"]}):
        with pytest.raises(
            (MetadataSignatureError, DelegationError), match=r"vision: expected sig|audio: expected a r"
        ):
            verify_listings(files, trusted_root=roles.trusted_root, newer_roots=[])


def test_older_role_than_was_seen_before_is_refused() -> None:
    """A snapshot cannot bring a team's last version back, nor leave it out."""
    roles = with_team()
    assert roles.in_force(targets=3, vision=2).versions["vision"] == 2
    with pytest.raises(MetadataVersionError, match="vision: expected at least version 3, found 2"):
        roles.in_force(vision=3)
    with pytest.raises(MetadataVersionError, match="audio: expected at least version 1, found none"):
        roles.in_force(audio=1)


def test_role_that_the_snapshot_does_not_list_is_refused() -> None:
    """By its version, and by its hash where it has one."""
    roles = with_team(bins=True)
    roles.listed["bin-0"].version += 1
    with pytest.raises(MetadataVersionError, match=r"bin-0: expected version .*, found"):
        roles.in_force("bins", "bin-0")
    roles.files["vision"] += b" "
    with pytest.raises(RepositoryError, match="vision: expected the file that is listed above it"):
        roles.in_force("vision")


def test_threshold_counts_different_keys() -> None:
    """Two of three sign; one alone, or one twice, is too few."""
    roles = with_team(count=3, threshold=2)
    state = roles.in_force()
    content = roles.files["vision"]
    assert count_signatures(content, delegator=state.targets, role="vision") == 2
    unsigned = targets_metadata([], version=1, expires=EXPIRES)
    once = add_signature(add_signature(unsigned, roles.teams["vision"][0]), roles.teams["vision"][0])
    with pytest.raises(MetadataSignatureError, match=r"vision: expected signatures by 2 of its keys .* found 1"):
        verify_delegated(once, delegator=state.targets, role="vision", now=NOW)


def test_one_key_under_two_ids_counts_once() -> None:
    """Even where metadata that names it so has been signed: its form is refused, and so would be the count."""
    roles, person = Roles(), OpaqueSigner()
    key = tuf_key(person.public_key)
    alias = type(key)("ab" * 32, key.keytype, key.scheme, key.keyval)
    delegations = role_delegations([Delegation("vision", (person.public_key,), 1, MODELS)])
    delegations.keys[alias.keyid] = alias
    assert delegations.roles is not None
    role = delegations.roles["vision"]
    role.keyids.append(alias.keyid)
    role.threshold = 2
    content = roles.sign_role("targets", targets_metadata([], version=2, expires=EXPIRES, delegations=delegations))
    with pytest.raises(RepositoryError, match=r"expected 2 different keys of vision, .* found 1"):
        verify_targets(content, root=roles.in_force().root, now=NOW)
    signed = json.loads(add_signature(targets_metadata([], version=1, expires=EXPIRES), person))
    signed["signatures"].append({**signed["signatures"][0], "keyid": alias.keyid})
    delegator = Targets(2, delegations=delegations)
    with pytest.raises(MetadataSignatureError, match="found 1"):
        verify_delegated(json.dumps(signed).encode(), delegator=delegator, role="vision", now=NOW)


def test_foreign_name_is_refused() -> None:
    """A team's outside its paths, a bin's outside its hashes."""
    roles = with_team(bins=True)
    state = roles.in_force()
    outside = roles.sign_role("vision", targets_metadata([APPLICATION], version=1, expires=EXPIRES))
    with pytest.raises(DelegationError, match="vision: expected targets of its own paths, found images/a7"):
        verify_delegated(outside, delegator=state.targets, role="vision", now=NOW)
    wrong = {"bin-0": "bin-1", "bin-1": "bin-0"}[state.role_for(APPLICATION.path)]
    foreign = roles.sign_role(wrong, targets_metadata([APPLICATION], version=1, expires=EXPIRES))
    with pytest.raises(DelegationError, match=f"{wrong}: expected targets of its own paths"):
        verify_delegated(foreign, delegator=state.delegated[BINS_ROLE], role=wrong, now=NOW)


def _named(name: str) -> Callable[[Roles], Delegations]:
    return lambda roles: role_delegations([Delegation(name, (roles.root.public_key,), 1, MODELS)])


def _open_end(roles: Roles) -> Delegations:
    delegations = _named("vision")(roles)
    assert delegations.roles is not None
    delegations.roles["vision"].terminating = False
    return delegations


def _keyless(roles: Roles) -> Delegations:
    delegations = _named("vision")(roles)
    delegations.keys.clear()
    return delegations


@pytest.mark.parametrize(
    ("delegations", "match"),
    [
        (_named("bin-0"), "not beginning with bin-"),
        (_named("Vision"), "expected roles of a-z"),
        (_open_end, "expected vision to be terminating"),
        (_keyless, "expected 1 different keys of vision"),
        (lambda roles: bin_delegations(keys_of(roles.root), bits=1), "expected hash bins below bins"),
    ],
)
def test_delegations_of_another_form_are_refused(delegations: Callable[[Roles], Delegations], match: str) -> None:
    """Whoever signed them."""
    roles = Roles()
    unsigned = targets_metadata([], version=2, expires=EXPIRES, delegations=delegations(roles))
    with pytest.raises(RepositoryError, match=match):
        verify_targets(roles.sign_role("targets", unsigned), root=roles.in_force().root, now=NOW)


def test_only_bins_delegate_further() -> None:
    """A team signs for itself."""
    roles = with_team()
    further = bin_delegations(keys_of(roles.targets), bits=1)
    content = roles.sign_role("vision", targets_metadata([], version=3, expires=EXPIRES, delegations=further))
    with pytest.raises(DelegationError, match="vision: expected delegations to bin-… by bins alone"):
        verify_delegated(content, delegator=roles.in_force().targets, role="vision", now=NOW)
    with pytest.raises(DelegationError, match="audio: expected a role that is delegated to, found none"):
        verify_delegated(content, delegator=roles.in_force().targets, role="audio", now=NOW)


def test_role_of_a_name_that_the_root_uses_is_refused() -> None:
    """Neither made, nor taken from whoever signed it."""
    roles = Roles()
    with pytest.raises(RepositoryError, match="expected roles of names that the root does not use, found snapshot"):
        role_delegations([team(roles, "snapshot")])
    delegations = role_delegations([team(roles)])
    named = json.loads(targets_metadata([], version=2, expires=EXPIRES, delegations=delegations))
    named["signed"]["delegations"]["roles"][0]["name"] = "snapshot"
    with pytest.raises(RepositoryError, match="targets: expected TUF metadata"):
        verify_targets(json.dumps(named).encode(), root=roles.in_force().root, now=NOW)


def test_more_hash_bins_than_a_proposal_holds_are_refused() -> None:
    """Before any of them is named: neither made, nor taken from whoever signed them."""
    roles = with_team(bins=True)
    with pytest.raises(RepositoryError, match="expected 1 to 12 bits, found 13"):
        bin_delegations(keys_of(roles.targets), bits=13)
    many = bin_delegations(keys_of(roles.targets), bits=12)
    assert many.succinct_roles is not None
    many.succinct_roles.bit_length = 32
    content = roles.sign_role(BINS_ROLE, targets_metadata([], version=3, expires=EXPIRES, delegations=many))
    with pytest.raises(DelegationError, match="bins: expected at most 12 bits of hash bins, found 32"):
        verify_delegated(content, delegator=roles.in_force().targets, role=BINS_ROLE, now=NOW)


def test_roles_name_different_keys_that_can_meet_their_threshold() -> None:
    """Refused before anything is signed."""
    key = OpaqueSigner()
    for keys in (keys_of(key, key), keys_of(key, threshold=2), keys_of(key, threshold=0)):
        with pytest.raises(RepositoryError, match="keys of a role: expected different ones and a threshold"):
            root_metadata({"root": keys}, expires=EXPIRES)


def test_key_that_is_no_p256_key_is_refused() -> None:
    """Other algorithms, and text that is no key."""
    key = tuf_key(OpaqueSigner().public_key)
    with pytest.raises(RepositoryError, match="expected a P-256 key in PEM"):
        public_key_of(type(key)("a" * 64, "ecdsa", key.scheme, {"public": "text"}))
    rsa = (
        "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
        "-----END PUBLIC KEY-----\n"
    )
    with pytest.raises(RepositoryError, match="expected a P-256 key, found a ed25519 key"):
        public_key_of(type(key)("a" * 64, "ed25519", "ed25519", {"public": rsa}))
    with pytest.raises(RepositoryError, match="metadata to sign: expected TUF metadata"):
        add_signature(b"{}", OpaqueSigner())


def test_next_root_keeps_what_does_not_change() -> None:
    """Keys of other roles and fields of others; keys that no role uses any more are gone."""
    root, old, new = OpaqueSigner(), OpaqueSigner(), OpaqueSigner()
    arguments = dict.fromkeys(("targets", "snapshot", "timestamp"), old.public_key)
    first = image_root(root, **arguments, expires=EXPIRES, fields={"a": 1, "b": 2})
    current = verify_root(first, now=NOW)
    content = next_root(current, {"targets": keys_of(new)}, expires=EXPIRES, fields={"b": 3})
    second = verify_root(first, newer=[add_signature(content, root)], now=NOW)
    assert (second.version, second.unrecognized_fields) == (2, {"a": 1, "b": 3})
    every = dict.fromkeys(("targets", "snapshot", "timestamp"), keys_of(new))
    third = Metadata[Root].from_bytes(next_root(second, every, expires=EXPIRES)).signed
    assert set(third.keys) == {tuf_key(root.public_key).keyid, tuf_key(new.public_key).keyid}


def test_delegations_are_read_back_as_they_were_made() -> None:
    """So that one of them can be changed."""
    roles = with_team(bins=True, count=2, threshold=2)
    state = roles.in_force()
    patches, vision = delegations_of(state.targets)
    assert (patches.name, vision.name, vision.threshold, vision.paths) == (DELTAS_ROLE, "vision", 2, MODELS)
    bins = bins_of(state)
    assert bins is not None
    assert (bins.bits, bins.keys.threshold) == (1, 1)
    assert bins_of(with_team().in_force()) is None


def test_removed_team_leaves_its_targets_and_its_version() -> None:
    """Its targets go to those who sign targets; it comes back one version above its last."""
    roles = with_team()
    state = roles.in_force()
    files = roles.sign(next_delegations(state, [], expires=EXPIRES))
    assert set(files) == {"targets"}
    del roles.files["vision"], roles.files[DELTAS_ROLE]
    roles.publish(files)
    after = roles.in_force()
    assert after.find(MODEL.path) == MODEL
    assert delegated_roles(after.targets) == {}
    again = next_delegations(after, [team(roles)], expires=EXPIRES)
    assert Metadata[Targets].from_bytes(again["vision"]).signed.version == 3
    assert Metadata[Targets].from_bytes(again["targets"]).signed.targets.keys() == {
        MODEL.path, APPLICATION.path, RELEASE.path,
    }  # fmt: skip


def test_team_with_other_keys_gets_a_new_file_and_others_do_not() -> None:
    """Only what changes is signed again."""
    roles = with_team(bins=True)
    state = roles.in_force()
    patches, vision = delegations_of(state.targets)
    other = Delegation(vision.name, (OpaqueSigner().public_key,), 1, vision.paths)
    assert set(next_delegations(state, [patches, other], bins=roles.bins(), expires=EXPIRES)) == {"targets", "vision"}
    renewed = next_targets(state, [], expires=EXPIRES, renewed=["bin-0"])
    assert Metadata[Targets].from_bytes(renewed["bin-0"]).signed.version > state.versions["bin-0"] - 1


def test_bins_take_over_from_a_team_and_give_back() -> None:
    """Without bins everything is in targets again."""
    roles = with_team(bins=True)
    state = roles.in_force()
    files = next_delegations(state, [], bins=roles.bins(), expires=EXPIRES)
    assert state.role_for(MODEL.path) == "vision"
    moved = [role for role, each in files.items() if MODEL.path in Metadata[Targets].from_bytes(each).signed.targets]
    assert moved
    assert moved[0].startswith("bin-")
    flat = next_delegations(state, delegations_of(state.targets), expires=EXPIRES)
    assert APPLICATION.path in Metadata[Targets].from_bytes(flat["targets"]).signed.targets


def _next(roles: Roles, state: RepositoryInForce, *, bits: int = 1) -> dict[str, bytes]:
    return roles.sign(next_delegations(state, delegations_of(state.targets), bins=roles.bins(bits), expires=EXPIRES))


def test_next_state_is_verified_by_delegators_as_they_will_be() -> None:
    """Targets by the root, bins by the new targets, each bin by the new bins."""
    roles = with_team()
    state = roles.in_force()
    files = _next(roles, state)
    after = verify_delegators(files, before=state, root=state.root, now=NOW)
    assert set(bin_names(after)) == {"bin-0", "bin-1"}
    assert redelegated(state, after) == {"bins", "bin-0", "bin-1"}
    assert dropped(after, state) == {"bins", "bin-0", "bin-1"}
    assert asks_others(state, after)
    assert verify_next(files, after, "bin-1", now=NOW).version == 1
    assert reaches(after, after.role_for(APPLICATION.path), APPLICATION.path)
    assert reaches(after, "targets", APPLICATION.path)
    assert not reaches(after, "vision", APPLICATION.path)
    without = {"targets": files["targets"]}
    with pytest.raises(RepositoryError, match="bins: expected its metadata"):
        verify_delegators(without, before=state, root=state.root, now=NOW)
    with pytest.raises(MetadataVersionError, match="bin-0: expected version 2, found 1"):
        verify_next(
            files, RepositoryInForce(after.root, after.targets, after.delegated, {"bin-0": 1}), "bin-0", now=NOW
        )


def test_next_file_is_one_that_devices_read_to_its_end() -> None:
    """What is in force and longer is read all the same, so that bins can take it over."""
    roles = with_team()
    state = roles.in_force()
    longer = dict.fromkeys(("targets", "vision"), b"x" * (MAX_TARGETS_BYTES + 1))
    with pytest.raises(MetadataLengthError, match="targets: expected at most 4194304 bytes"):
        verify_delegators(longer, before=state, root=state.root, now=NOW)
    with pytest.raises(MetadataLengthError, match="vision: expected at most 4194304 bytes"):
        verify_next(longer, state, "vision", now=NOW)
    with pytest.raises(RepositoryError, match="targets: expected TUF metadata"):
        verify_kept(longer["targets"], state, "targets", now=NOW)


def test_more_bins_leave_the_old_ones_to_nobody() -> None:
    """Names of the same length would stay; these do not."""
    roles = with_team(bins=True)
    state = roles.in_force()
    files = _next(roles, state, bits=5)
    after = verify_delegators(files, before=state, root=state.root, now=NOW)
    assert dropped(state, after) == {"bin-0", "bin-1"}
    assert len(redelegated(state, after)) == 32
    kept = verify_delegators({}, before=state, root=state.root, now=NOW)
    assert not redelegated(state, kept) | dropped(state, kept)
    assert not asks_others(state, kept)


def test_file_in_force_must_hold_under_new_delegations() -> None:
    """Targets under a new root, a team under new targets."""
    roles = with_team()
    state = roles.in_force()
    assert verify_kept(roles.files["targets"], state, "targets", now=NOW).version == 3
    assert verify_kept(roles.files["vision"], state, "vision", now=NOW).version == 2
    stranger = Roles()
    with pytest.raises(MetadataSignatureError, match=r"targets: .* found 0"):
        verify_kept(stranger.files["targets"], state, "targets", now=NOW)


def test_what_was_verified_before_is_read_without_its_keys() -> None:
    """The service's own files: damage is found, signatures were checked when they came."""
    roles = with_team(bins=True)
    files = {**roles.files, "root": roles.trusted_root}
    state = trusted_delegators(files, {"targets": 3})
    assert (set(state.delegated), state.versions) == ({BINS_ROLE}, {"targets": 3})
    plain = with_team()
    without_bins = verify_delegators({}, before=plain.in_force(), root=plain.in_force().root, now=NOW)
    assert without_bins.delegated == {}
    assert trusted_delegators({**with_team().files, "root": roles.trusted_root}, {}).delegated == {}
    with pytest.raises(RepositoryError, match="targets in force: expected TUF metadata"):
        trusted(b"{}", Targets)
    with pytest.raises(RepositoryError, match="vision: expected TUF metadata"):
        count_signatures(b"{}", delegator=state.targets, role="vision")


def test_listing_changes_are_added_removed_and_altered() -> None:
    """By name; custom metadata counts as content."""
    other = content_target(MODEL.path, b"model", {"a": 1})
    change = listing_change({MODEL.path: MODEL, RELEASE.path: RELEASE}, {MODEL.path: other, "x": APPLICATION})
    assert (change.added, change.removed, change.altered) == (
        {"x": APPLICATION},
        {RELEASE.path: RELEASE},
        (MODEL.path,),
    )
