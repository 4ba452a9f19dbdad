"""Bring a draft of update metadata into force, or pass it on: what every command that changes metadata ends with.

1. review: the draft is verified against the metadata in force, and what it changes is shown;
2. consent: the operator says yes (`--yes` says it beforehand);
3. signatures by one's own keys, as many as count and are missing;
4. files that the metadata names go to the service, where nothing refers to them yet;
5. where enough have signed: publication, as a whole or not at all; else the proposal's file, for others to sign.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import typer
from tuf.api.metadata import Root, Targets

from pki.proposal_review import InForce, Quorum, Review, review_proposal, sign_proposal
from pki.proposals import Proposal, write_proposal
from pki.repository import RepositoryInForce
from pki.stores import KeyStores
from protocol.image import digest_of
from protocol.updates import ReleaseDocument
from service.cli.client import ApiClient, JsonObject
from service.cli.errors import BadArgumentError, CliError
from service.cli.offline_keys import own_key_ids
from service.cli.output import print_facts, print_json, print_table, remark, short
from service.cli.working_copy import WorkingCopy

SHOWN_ROLES = 8  # of those whose files change; hash bins are many


class SignaturesMissingError(CliError):
    """A proposal is to come into force that too few have signed."""


@dataclass(frozen=True, slots=True)
class Session:
    """What a command that changes metadata works with.

    Attributes:
        keys: one's own.
        now: UTC, aware.
    """

    client: ApiClient
    working_copy: WorkingCopy
    keys: KeyStores
    now: datetime


@dataclass(frozen=True, slots=True)
class Draft:
    """Metadata that is to come into force.

    Attributes:
        in_force: what it follows.
        contents: of new targets by name; the service gets them first.
    """

    proposal: Proposal
    in_force: InForce
    contents: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Consent:
    """How a command is to end.

    Attributes:
        yes: do not ask.
        propose: write the proposal to this file, whoever has signed; None publishes where enough have signed.
        quiet: show the changes in one line.
    """

    yes: bool = False
    propose: Path | None = None
    quiet: bool = False


def image_in_force(repository: RepositoryInForce) -> InForce:
    """Return what a proposal for the Image repository follows."""
    return InForce(
        repository.root, {Targets.type: repository.targets, **repository.delegated}, dict(repository.versions)
    )


def settle(session: Session, draft: Draft, consent: Consent) -> JsonObject:
    """Sign a draft with one's own keys and publish it, or write its proposal.

    Returns:
        what the service says of it, or the proposal's file and whose signatures are missing.

    Raises:
        PkiError: the draft breaks a rule.
        BadArgumentError: the operator does not want it.
        CliError: the service does not answer, or refuses.
    """
    # Step 1: review.
    review = review_proposal(draft.proposal, draft.in_force, now=session.now)
    show_review(review, quiet=consent.quiet)
    # Step 2: consent.
    if not consent.yes and not typer.confirm("Sign this?", err=True):
        raise BadArgumentError("expected a yes, found a no; nothing changed")
    # Step 3: signatures.
    review = sign_with_own_keys(session.keys, review, draft.in_force, now=session.now)
    # Step 4: files.
    upload(session, {**draft.contents, **review.proposal.documents})
    # Step 5: publication, or the file.
    if review.is_complete and consent.propose is None:
        return publish(session, review)
    path = consent.propose or Path(_default_name(review))
    write_proposal(path, review.proposal)
    return proposal_facts(path, review)


def sign_with_own_keys(keys: KeyStores, review: Review, in_force: InForce, *, now: datetime) -> Review:
    """Add signatures by one's own keys, as many as count and are missing.

    Args:
        keys: one's own.
        review: of the proposal.
        in_force: what it follows.
        now: UTC, aware.

    Raises:
        KeyStoreError: a key cannot be used.
    """
    for key_id, name in own_key_ids(keys).items():
        if any(key_id in quorum.keys and key_id not in quorum.signed for quorum in review.lacking):
            review = review_proposal(sign_proposal(review, keys.load(name)), in_force, now=now)
    return review


def upload(session: Session, contents: Mapping[str, bytes]) -> None:
    """Keep files in the working copy and give them to the service, where it has not got them yet."""
    for target, content in contents.items():
        session.working_copy.keep(target, content)
        path = f"/artifacts/{digest_of(content)}"
        if not session.client.has(path):
            session.client.put_bytes(path, content)


def publish(session: Session, review: Review) -> JsonObject:
    """Bring a reviewed proposal into force; returns what the service says.

    Raises:
        SignaturesMissingError: too few have signed.
        CliError: the service does not answer, or refuses.
    """
    if not review.is_complete:
        raise SignaturesMissingError(f"proposal: expected enough signatures, found missing: {missing_text(review)}")
    path, body = _publication(review)
    answer = session.client.post(path, body)
    session.working_copy.keep_metadata(
        review.proposal.metadata, versions=review.versions, repository=review.proposal.repository
    )
    return answer


def proposal_facts(path: Path, review: Review) -> JsonObject:
    """Say of a proposal's file what it lacks."""
    return {
        "proposal": str(path),
        "purpose": review.proposal.purpose,
        "complete": review.is_complete,
        "missing": [
            {
                "role": quorum.role,
                "by": quorum.delegator,
                "missing": quorum.missing,
                "threshold": quorum.threshold,
                "signed": list(quorum.signed),
                "keys": list(quorum.keys),
            }
            for quorum in review.lacking
        ],
    }


def report(answer: JsonObject, *, as_json: bool) -> None:
    """Print how a command ended: what the service says, or where the proposal is and who is to sign it."""
    if as_json:
        print_json(answer)
    elif "proposal" not in answer:
        print_facts({name: _shortened(value) for name, value in answer.items() if value})
    else:
        lacking = [f"{each['role']}: {each['missing']} more by {each['by']}" for each in answer["missing"]]
        print_facts({"proposal": answer["proposal"], "signatures missing": lacking or "none"})
        others = "" if answer["complete"] else "others add theirs by `tinyfleet metadata sign`, then "
        remark(f"nothing is in force yet; {others}`tinyfleet metadata publish {answer['proposal']}`")


def _shortened(value: object) -> object:
    """Shorten what the service says of images to slots and digests, for people."""
    if isinstance(value, list) and all(isinstance(each, dict) and "slot" in each for each in value):
        return {each["slot"]: short(each.get("sha256")) for each in value}
    return value


def missing_text(review: Review) -> str:
    """Say whose signatures are missing."""
    return "; ".join(f"{quorum.role}: {quorum.missing} of {_waiting(quorum)}" for quorum in review.lacking) or "none"


def show_review(review: Review, *, quiet: bool = False) -> None:
    """Show what a proposal changes, who has signed it, and who is to."""
    if quiet:
        versions = ", ".join(f"{role} {version}" for role, version in review.versions.items())
        remark(f"{review.proposal.repository} repository, {versions[:200]}: {len(review.added)} targets more")
        return
    title = f"What changes in the {review.proposal.repository} repository"
    print_table(title, ("", "what", "role"), [*_version_rows(review), *_target_rows(review), *_key_rows(review)])
    for document in review.releases:
        print_facts(release_facts(document))
    show_signatures(review.quorums)


def release_facts(document: ReleaseDocument) -> JsonObject:
    """Return what a release document says, for people."""
    said = {
        "release": document.name,
        "counter": document.counter,
        "factory": "yes" if document.factory else None,
        "images": {slot: f"{short(image.sha256)}  {image.target}" for slot, image in document.images.items()},
        "way back of": document.way_back_of,
        "goes back from": {slot: ", ".join(map(short, digests)) for slot, digests in document.goes_back.items()},
        "must pass": "yes" if document.must_pass else None,
        "after": {slot: must.release for slot, must in document.after.items()},
        "support ends": None if document.support_ends is None else f"{document.support_ends:%F}",
        "documents": dict(document.documents),
    }
    return {name: value for name, value in said.items() if value}


def show_signatures(quorums: Sequence[Quorum]) -> None:
    """Show who has signed what, where a signature is missing."""
    lacking = [quorum for quorum in quorums if quorum.missing]
    rows = [
        (
            quorum.role,
            quorum.delegator,
            f"{len(quorum.signed)} of {quorum.threshold}",
            ", ".join(map(short, quorum.signed)),
            _waiting(quorum),
        )
        for quorum in lacking
    ]
    if rows:
        print_table("Signatures that are missing", ("role", "as named by", "signed", "by", "may sign"), rows)


def _waiting(quorum: Quorum) -> str:
    return ", ".join(short(key) for key in quorum.keys if key not in quorum.signed)


def _version_rows(review: Review) -> Iterator[tuple[str, str, str]]:
    shown = list(review.versions.items())[:SHOWN_ROLES]
    yield from (("version", f"{version}, until {review.expiries[role]:%F}", role) for role, version in shown)
    if len(shown) < len(review.versions):
        yield "version", "…", f"{len(review.versions) - len(shown)} roles more"


def _target_rows(review: Review) -> Iterator[tuple[str, str, str]]:
    yield from (("+", name, role) for name, role in review.added.items())
    yield from (("moved", name, f"{before} → {after}") for name, (before, after) in review.moved.items())


def _key_rows(review: Review) -> Iterator[tuple[str, str, str]]:
    yield from (("field", name, "") for name in review.fields)
    for change in review.roles:
        before, after = change.threshold
        if before != after:
            yield "threshold", f"{before} → {after}", change.role
        yield from (("key", f"+ {key}", change.role) for key in change.added)
        yield from (("key", f"− {key}", change.role) for key in change.removed)
        if change.paths[0] != change.paths[1]:
            yield "paths", ", ".join(change.paths[1]) or "none", change.role


def _publication(review: Review) -> tuple[str, JsonObject]:
    files = {role: base64.b64encode(content).decode() for role, content in review.proposal.metadata.items()}
    release, repository = review.proposal.release, review.proposal.repository
    if Root.type in files:
        root = files.pop(Root.type)
        return f"/repository/{repository}/root", {"metadata": root} | ({"roles": files} if files else {})
    if release is None:
        return f"/repository/{repository}/targets", {"metadata": files}
    body: JsonObject = {"name": review.releases[0].name, "metadata": files, "release_target": release.target}
    return "/releases", body | ({} if release.way_back is None else {"way_back_target": release.way_back})


def _default_name(review: Review) -> str:
    role, version = next(iter(review.versions.items()))
    what = review.releases[0].name if review.releases else f"{role}-{version}"
    return f"{review.proposal.repository}-{what}.proposal.json"
