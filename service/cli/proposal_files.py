"""Proposals that are passed on as files: review one, sign one, publish one."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pki.proposal_review import InForce, Review, review_proposal, sign_proposal
from pki.proposals import Proposal, ProposedRepository, read_proposal, write_proposal
from pki.stores import KeyStores
from service.cli.client import JsonObject
from service.cli.errors import CliError
from service.cli.settling import Session, image_in_force, publish, sign_with_own_keys, upload
from service.cli.working_copy import WorkingCopy


class PublishedBeforeError(CliError):
    """Everything that the proposal brings is in force already."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A proposal's file, verified against what is in force.

    Attributes:
        review: what it changes, who has signed it.
        in_force: what it was verified against.
    """

    review: Review
    in_force: InForce


def open_proposal(session: Session, path: Path) -> Opened:
    """Read a proposal's file and verify it against the metadata in force.

    Raises:
        PublishedBeforeError: all of it is in force.
        PkiError: the file is malformed, or breaks a rule; or what is in force does not verify.
        CliError: the service does not answer.
    """
    proposal = read_proposal(path)
    in_force = _metadata_in_force(session, proposal)
    return _opened(session.working_copy, proposal, in_force, now=session.now)


def open_offline(working_copy: WorkingCopy, path: Path, *, now: datetime) -> Opened:
    """Read a proposal's file and verify it against the metadata that this working copy knows; no service is asked.

    Raises:
        PublishedBeforeError: all of it is in force.
        PkiError: the file is malformed, or breaks a rule, such as following metadata that this copy does not know yet.
        WorkingCopyError: the copy has no metadata.
    """
    proposal = read_proposal(path)
    if proposal.repository is ProposedRepository.DIRECTOR:
        in_force = InForce(working_copy.known_director_root())
    else:
        in_force = image_in_force(working_copy.latest(now=now, expired=True))
    return _opened(working_copy, proposal, in_force, now=now)


def sign_file(keys: KeyStores, path: Path, opened: Opened, *, key: str | None, now: datetime) -> Review:
    """Add signatures to a proposal's file.

    Args:
        keys: one's own.
        path: of the file; it is replaced as a whole.
        opened: what it holds.
        key: name of one's key; None signs with as many as count and are missing.
        now: UTC, aware.

    Raises:
        SignerRefusedError: the key's signature would not count.
        KeyStoreError: a key cannot be used.
    """
    if key is None:
        review = sign_with_own_keys(keys, opened.review, opened.in_force, now=now)
    else:
        review = review_proposal(sign_proposal(opened.review, keys.load(key)), opened.in_force, now=now)
    write_proposal(path, review.proposal)
    return review


def publish_file(session: Session, opened: Opened) -> JsonObject:
    """Bring a proposal's file into force.

    Raises:
        SignaturesMissingError: too few have signed.
        CliError: the service does not answer, or refuses.
    """
    upload(session, opened.review.proposal.documents)
    return publish(session, opened.review)


def _metadata_in_force(session: Session, proposal: Proposal) -> InForce:
    """Return what a proposal follows, even where it has expired: the proposal is to renew it."""
    if proposal.repository is ProposedRepository.DIRECTOR:
        return InForce(session.working_copy.fetch_director_root(session.client, now=session.now, expired=True))
    roles = [*proposal.metadata]
    in_force = session.working_copy.fetch(session.client, now=session.now, roles=roles, expired=True)
    return image_in_force(in_force)


def _opened(working_copy: WorkingCopy, proposal: Proposal, in_force: InForce, *, now: datetime) -> Opened:
    known = {
        role: working_copy.find_metadata(role, version=in_force.last_version(role), repository=proposal.repository)
        for role in proposal.metadata
    }
    if known == proposal.metadata:
        raise PublishedBeforeError("proposal: expected something that is not in force yet, found that all of it is")
    return Opened(review_proposal(proposal, in_force, now=now), in_force)
