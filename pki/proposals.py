"""Proposals: update metadata on its way from hand to hand, until enough keys have signed it.

A proposal is one file, canonical JSON: the role files that are to come into force together, each TUF metadata with the
signatures that it has so far, and the small documents that a signer should read. Packages are not in it: they are with
the service, and the metadata names them by hash. What its maker says of it (`purpose`) is a claim; what it changes is
worked out from the metadata in force (pki/proposal_review.py).

    {"documents": {target name: base64}, "format": "tinyfleet-proposal-1",
     "metadata": {role: base64 of TUF metadata}, "purpose": text,
     "release": {"target": name, "way_back": name or null} or null, "repository": "image" or "director"}

Reading an unverified file, in this order:
    1. length: at most `MAX_PROPOSAL_BYTES`;
    2. form: the document above, nothing beside it, in its canonical bytes, so that equal proposals are equal files.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from pki.errors import ProposalError
from pki.files import PUBLIC_MODE, replace_file
from protocol.document import Document, DocumentError, Printable, canonical_json, parse_document
from protocol.voucher import Base64Bytes

MAX_PROPOSAL_BYTES = 64 * 1024 * 1024
MAX_ROLES = 2**12 + 16  # every hash bin, and what is above them
MAX_DOCUMENTS = 256
ROLE_NAME = r"^[a-z0-9][a-z0-9-]{0,31}$"

RoleName = Annotated[str, Field(pattern=ROLE_NAME)]
TargetName = Annotated[str, Field(min_length=1, max_length=300, pattern=r"^[A-Za-z0-9._/-]+$")]


class ProposedRepository(StrEnum):
    """Whose metadata a proposal changes."""

    IMAGE = "image"
    DIRECTOR = "director"


class ProposedRelease(Document):
    """Which release a proposal brings.

    Attributes:
        target: target name of its document.
        way_back: target name of the document of the release that undoes it, signed together with it.
    """

    target: TargetName
    way_back: TargetName | None = None


class Proposal(Document):
    """Metadata that is to come into force together.

    Attributes:
        repository: whose.
        purpose: what its maker says that it is for.
        metadata: TUF metadata by role, JSON bytes, with the signatures that it has so far.
        release: None where no release comes of it.
        documents: content of new targets by name: release documents and other small ones.
    """

    format: Literal["tinyfleet-proposal-1"] = "tinyfleet-proposal-1"
    repository: ProposedRepository
    purpose: Annotated[Printable, Field(max_length=200)]
    metadata: Annotated[Mapping[RoleName, Base64Bytes], Field(min_length=1, max_length=MAX_ROLES)]
    release: ProposedRelease | None = None
    documents: Annotated[Mapping[TargetName, Base64Bytes], Field(max_length=MAX_DOCUMENTS)] = Field(
        default_factory=dict
    )


def encode_proposal(proposal: Proposal) -> bytes:
    """Return the bytes of a proposal's file.

    Raises:
        ProposalError: too long to be passed on.
    """
    content = canonical_json(proposal)
    if len(content) > MAX_PROPOSAL_BYTES:
        raise ProposalError(f"proposal: expected at most {MAX_PROPOSAL_BYTES} bytes, found {len(content)}")
    return content


def parse_proposal(unverified: bytes) -> Proposal:
    """Return what a proposal's file holds; nothing of it is verified yet.

    Raises:
        ProposalError: steps 1 or 2.
    """
    # Step 1: length, and step 2: form.
    try:
        proposal = parse_document(unverified, Proposal, max_bytes=MAX_PROPOSAL_BYTES)
    except DocumentError as error:
        raise ProposalError(f"expected a proposal, found another file: {error}") from error
    if canonical_json(proposal) != unverified:
        raise ProposalError("proposal: expected its canonical bytes, found the same in another form")
    return proposal


def read_proposal(path: Path) -> Proposal:
    """Read a proposal's file; nothing of it is verified yet.

    Raises:
        ProposalError: it cannot be read, or steps 1 or 2.
    """
    try:
        with path.open("rb") as file:
            unverified = file.read(MAX_PROPOSAL_BYTES + 1)
    except OSError as error:
        raise ProposalError(f"{path}: expected a readable proposal, found: {error.strerror}") from error
    return parse_proposal(unverified)


def write_proposal(path: Path, proposal: Proposal) -> None:
    """Write a proposal's file, whole or not at all.

    Raises:
        ProposalError: too long to be passed on.
    """
    replace_file(path, encode_proposal(proposal), mode=PUBLIC_MODE)
