"""Proposals that are passed on as files: review one, sign one, publish one."""

from dataclasses import dataclass
from pathlib import Path

from pki.proposal_review import InForce, Review, review_proposal, sign_proposal
from pki.proposals import Proposal, ProposedRepository, read_proposal, write_proposal
from service.cli.client import JsonObject
from service.cli.errors import CliError
from service.cli.settling import Session, image_in_force, publish, sign_with_own_keys, upload


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
    in_force = metadata_in_force(session, proposal)
    _refuse_published(session, proposal, in_force)
    return Opened(review_proposal(proposal, in_force, now=session.now), in_force)


def sign_file(session: Session, path: Path, opened: Opened, *, key: str | None) -> Review:
    """Add signatures to a proposal's file.

    Args:
        session: with one's own keys.
        path: of the file; it is replaced as a whole.
        opened: what it holds.
        key: name of one's key; None signs with as many as count and are missing.

    Raises:
        SignerRefusedError: the key's signature would not count.
        KeyStoreError: a key cannot be used.
    """
    if key is None:
        review = sign_with_own_keys(session, opened.review, opened.in_force)
    else:
        signed = sign_proposal(opened.review, session.keys.load(key))
        review = review_proposal(signed, opened.in_force, now=session.now)
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


def metadata_in_force(session: Session, proposal: Proposal) -> InForce:
    """Return what a proposal follows, even where it has expired: the proposal is to renew it."""
    if proposal.repository is ProposedRepository.DIRECTOR:
        return InForce(session.working_copy.fetch_director_root(session.client, now=session.now, expired=True))
    roles = [*proposal.metadata]
    in_force = session.working_copy.fetch(session.client, now=session.now, roles=roles, expired=True)
    return image_in_force(in_force)


def _refuse_published(session: Session, proposal: Proposal, in_force: InForce) -> None:
    """Say so where a publication came into force although its command was interrupted."""
    known = {
        role: session.working_copy.find_metadata(
            role, version=in_force.last_version(role), repository=proposal.repository
        )
        for role in proposal.metadata
    }
    if known == proposal.metadata:
        raise PublishedBeforeError("proposal: expected something that is not in force yet, found that all of it is")
