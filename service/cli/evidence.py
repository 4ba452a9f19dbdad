"""What is said of a release, verified: its documents and those of its images.

Which documents there are is taken from the signed metadata, so that the service can leave none out: for exploitability
statements, which come later, from every role. Each is verified before anybody reads it, in this order:
    1. target: the document is listed in the Image repository's metadata in force, by the length and hash that it has;
    2. form: it is what its kind says (protocol/cyclonedx.py, protocol/provenance.py);
    3. subject: a bill of materials is of the image that names it, an exploitability document of the release, and
       provenance, signed by a package key, of the release and of exactly its images.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import TargetFile

from pki.catalog import load_catalog
from pki.repository import RepositoryInForce
from protocol.cyclonedx import Bom, Vex, read_bom, read_vex
from protocol.provenance import Provenance, verify_provenance
from protocol.updates import DocumentKind, ReleaseDocument, document_custom, image_custom
from service.cli.client import ApiClient
from service.cli.errors import CliError
from service.cli.options import one_id
from service.cli.working_copy import WorkingCopy, find_release


class EvidenceError(CliError):
    """A document is missing, or is not what the signed metadata says."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads from a service what an operator's folder verifies.

    Attributes:
        now: UTC, aware.
    """

    client: ApiClient
    operator_dir: Path
    now: datetime

    @property
    def working_copy(self) -> WorkingCopy:
        """Of the operator's folder."""
        return WorkingCopy(self.operator_dir)

    def fetch(self, names: Sequence[str]) -> RepositoryInForce:
        """Return the metadata in force with the roles of some targets."""
        return self.working_copy.fetch(self.client, now=self.now, names=names)

    def fetch_all(self) -> RepositoryInForce:
        """Return the metadata in force with every role that people sign."""
        return self.working_copy.fetch(self.client, now=self.now, everything=True)

    def content(self, target: TargetFile) -> bytes:
        """Return a target's bytes, verified against it."""
        # Step 1: target.
        return self.working_copy.fetch_target(self.client, target)


@dataclass(frozen=True, slots=True)
class Paper:
    """A verified document.

    Attributes:
        subject: image id, or name of the release.
    """

    kind: DocumentKind
    subject: str
    target: TargetFile
    content: bytes


@dataclass(frozen=True, slots=True)
class ReleaseEvidence:
    """What is said of a release, verified.

    Attributes:
        images: its images' targets.
        bills: by image id; an image without one is left out.
        provenance: None where there is none.
        statements: exploitability documents, oldest first by their signed time.
        papers: all of these as they were signed.
    """

    document: ReleaseDocument
    images: Sequence[TargetFile]
    bills: Mapping[str, Bom]
    provenance: Provenance | None
    statements: Sequence[Vex]
    papers: Sequence[Paper]


def release_evidence(reader: Reader, name: str) -> ReleaseEvidence:
    """Collect and verify what is said of a release.

    Raises:
        EvidenceError: there is no such release, or a document is missing or another.
        ProtocolError: a document is malformed or not signed by a package key.
        PkiError: the metadata in force does not verify.
        CliError: the service does not answer.
    """
    listed = find_release(reader.fetch([]).targets, name)
    if listed is None:
        raise EvidenceError(f"release {name[:64]}: expected one in force, found none")
    document = reader.working_copy.fetch_release(reader.client, listed)
    images = _targets(reader, [image.target for image in document.images.values()])
    papers = [*_bills(reader, images), *_provenance(reader, document), *_statements(reader, name)]
    bills = {paper.subject: read_bom(paper.content) for paper in papers if paper.kind is DocumentKind.BOM}
    statements = [read_vex(paper.content) for paper in papers if paper.kind is DocumentKind.VEX]
    _check_bills(images, bills)
    _check_statements(document, statements)
    return ReleaseEvidence(
        document=document,
        images=images,
        bills=bills,
        provenance=_verified_provenance(reader, document, papers),
        statements=statements,
        papers=papers,
    )


def image_bill(reader: Reader, image_id: str) -> Paper:
    """Return an image's bill of materials, verified.

    Raises:
        EvidenceError: it has none, or the document is another.
        CliError: the service does not answer, or knows no such image.
    """
    name = str(reader.client.get(f"/images/{one_id(image_id)}")["target"])
    (image,) = _targets(reader, [name])
    for paper in _bills(reader, [image]):
        _check_bills([image], {paper.subject: read_bom(paper.content)})
        return paper
    raise EvidenceError(f"image {image_id}: expected a bill of materials, found none")


def _targets(reader: Reader, names: Sequence[str]) -> list[TargetFile]:
    in_force = reader.fetch(names)
    found = {name: in_force.find(name) for name in names}
    for name, target in found.items():
        if target is None:
            raise EvidenceError(f"{name}: expected it among the signed targets in force, found none")
    return [target for target in found.values() if target is not None]


def _paper(reader: Reader, name: str, kind: DocumentKind, subject: str) -> Paper:
    (target,) = _targets(reader, [name])
    custom = document_custom(target)
    if (custom.kind, custom.subject) != (kind, subject):
        raise EvidenceError(f"{name}: expected a {kind} of {subject}, found a {custom.kind} of {custom.subject}")
    return Paper(kind, subject, target, reader.content(target))


def _bills(reader: Reader, images: Sequence[TargetFile]) -> Iterator[Paper]:
    named = [(image_custom(image).bom, image_custom(image).image_id) for image in images]
    for name, image_id in dict.fromkeys(named):
        if name is not None:
            yield _paper(reader, name, DocumentKind.BOM, image_id)


def _provenance(reader: Reader, document: ReleaseDocument) -> Iterator[Paper]:
    name = document.documents.get(DocumentKind.PROVENANCE)
    if name is not None:
        yield _paper(reader, name, DocumentKind.PROVENANCE, document.name)


def _statements(reader: Reader, release: str) -> Iterator[Paper]:
    in_force = reader.fetch_all()
    listed = (target for role in (in_force.targets, *in_force.delegated.values()) for target in role.targets.values())
    said = [target for target in listed if _says_of(release, target) and in_force.find(target.path) == target]
    papers = [Paper(DocumentKind.VEX, release, target, reader.content(target)) for target in said]
    yield from sorted(papers, key=lambda paper: read_vex(paper.content).metadata.timestamp)


def _says_of(release: str, target: TargetFile) -> bool:
    if not target.path.startswith(f"documents/{DocumentKind.VEX}/"):
        return False
    custom = document_custom(target)
    return (custom.kind, custom.subject) == (DocumentKind.VEX, release)


def _check_bills(images: Sequence[TargetFile], bills: Mapping[str, Bom]) -> None:
    # Step 3: subject.
    for image in images:
        bom = bills.get(image_custom(image).image_id)
        if bom is None:
            continue
        component = bom.metadata.component
        found = [each.content for each in component.hashes if each.alg == "SHA-256"]
        if component.bom_ref != image_custom(image).image_id or found != [image.hashes["sha256"]]:
            raise EvidenceError(f"{image.path}: expected its own bill of materials, found that of {component.name}")


def _check_statements(document: ReleaseDocument, statements: Sequence[Vex]) -> None:
    # Step 3: subject.
    for vex in statements:
        found = vex.metadata.component.name
        if found != document.name:
            raise EvidenceError(f"exploitability: expected that of release {document.name}, found that of {found}")


def _verified_provenance(reader: Reader, document: ReleaseDocument, papers: Sequence[Paper]) -> Provenance | None:
    content = next((paper.content for paper in papers if paper.kind is DocumentKind.PROVENANCE), None)
    if content is None:
        return None
    catalog = load_catalog(reader.operator_dir / "repository" / "catalog.json")
    provenance = verify_provenance(content, catalog.package_keys)
    # Step 3: subject.
    wanted = {image.sha256 for image in document.images.values()}
    if provenance.release != document.name or provenance.image_digests != wanted:
        raise EvidenceError(f"provenance: expected that of release {document.name}, found that of {provenance.release}")
    return provenance
