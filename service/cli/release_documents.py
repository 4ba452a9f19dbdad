"""Documents that go with a release: a bill of materials of each new image, and the release's provenance.

The way back from a release has provenance of its own: it is a release, too, of images that are in force.

`service.cli.publishing` puts them among the release's targets, so that the same signatures cover images and documents.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from tuf.api.metadata import TargetFile

from pki.roles import OfflineKey
from protocol.geometry import SYSTEM_SLOTS
from protocol.image import digest_of
from protocol.provenance import Digests, ReleaseParameters, Resource, make_provenance, sign_provenance
from protocol.updates import (
    DocumentCustom,
    DocumentKind,
    ReleaseDocument,
    document_target_name,
    image_custom,
    image_target_name,
)
from service.cli.bills import image_bom
from service.cli.bills_maker import read_maker_bom
from service.cli.offered import OfferedImage
from service.cli.publishing import ReleaseDocuments
from service.cli.settling import Session


@dataclass(frozen=True, slots=True)
class Origin:
    """What the operator says of where a release comes from.

    Attributes:
        supplier: who signs the images; named in the bills of materials.
        source_uri: where the sources are, such as git+https://….
        source_commit: git commit of them, hex.
    """

    supplier: str | None = None
    source_uri: str | None = None
    source_commit: str | None = None


def release_documents(
    session: Session,
    name: str,
    origin: Origin,
    *,
    offered: Sequence[OfferedImage] = (),
    listed: Sequence[TargetFile] = (),
) -> ReleaseDocuments:
    """Make the documents of a release.

    Args:
        session: the package key of its keys signs the provenance.
        name: of the release.
        origin: what the operator says.
        offered: images of the release, verified.
        listed: targets of further ones, which are in force already.

    Raises:
        MakerBomError, BomError: a maker's bill of materials cannot be taken in.
        KeyStoreError: the package key cannot be used.
        CliError: the service does not answer.
    """
    bills = image_documents(session, origin, offered)
    subject = {each.image.digest: _target_name(each) for each in offered}
    subject |= {target.hashes["sha256"]: target.path for target in listed}
    provenance = _provenance(session, name, subject, list(_materials(offered, origin)))
    return replace(provenance, contents={**bills.contents, **provenance.contents}, boms=bills.boms)


def way_back_documents(session: Session, document: ReleaseDocument) -> ReleaseDocuments:
    """Make the provenance of a way back; nothing where the package key, which signs it, is not here.

    Raises:
        KeyStoreError: the package key cannot be used.
    """
    if not session.keys.holds(OfflineKey.PACKAGE):
        return ReleaseDocuments()
    subject = {image.sha256: image.target for image in document.images.values()}
    return _provenance(session, document.name, subject, [])


def image_documents(session: Session, origin: Origin, offered: Sequence[OfferedImage]) -> ReleaseDocuments:
    """Make the bills of materials of images; one that is in force already keeps what it has.

    Raises:
        MakerBomError, BomError: a maker's bill of materials cannot be taken in.
        CliError: the service does not answer.
    """
    in_force = session.working_copy.fetch(
        session.client, now=session.now, names=[_target_name(each) for each in offered]
    )
    contents: dict[str, tuple[bytes, DocumentCustom]] = {}
    boms: dict[str, str] = {}
    for each in offered:
        image_id = each.image.info.image_id
        known = in_force.find(_target_name(each))
        if known is not None:
            listed = image_custom(known).bom
            boms |= {} if listed is None else {image_id: listed}
            continue
        content = _bom(each, origin)
        boms[image_id] = document_target_name(DocumentKind.BOM, digest_of(content))
        contents[boms[image_id]] = (content, DocumentCustom(kind=DocumentKind.BOM, subject=image_id))
    return ReleaseDocuments(contents=contents, boms=boms)


def _provenance(
    session: Session, name: str, subject: Mapping[str, str], materials: Sequence[Resource]
) -> ReleaseDocuments:
    """Sign the provenance of a release; its subject is target names by SHA-256."""
    provenance = make_provenance(
        ReleaseParameters(release=name, command=("tinyfleet", *map(without_folders, sys.argv[1:]))),
        [Resource(name=target, digest=Digests(sha256=digest)) for digest, target in subject.items()],
        materials,
        tinyfleet=version("tinyfleet"),
        finished_on=session.now.replace(microsecond=0),
    )
    content = sign_provenance(provenance, session.keys.load(OfflineKey.PACKAGE))
    target = document_target_name(DocumentKind.PROVENANCE, digest_of(content))
    custom = DocumentCustom(kind=DocumentKind.PROVENANCE, subject=name)
    return ReleaseDocuments(contents={target: (content, custom)}, of_release={DocumentKind.PROVENANCE: target})


def without_folders(word: str) -> str:
    """Return a word of a command as others may read it: of a place on this machine only the last name.

    Args:
        word: an argument, or an option with its value, such as `--propose=/home/ada/release.json`.
    """
    option, equals, value = word.rpartition("=")
    path = Path(value)
    return f"{option}{equals}{path.name}" if "/" in value and path.parent.is_dir() else word


def _target_name(offered: OfferedImage) -> str:
    return image_target_name(offered.slot, offered.image.info.image_id)


def _bom(offered: OfferedImage, origin: Origin) -> bytes:
    maker = None if offered.bom is None else read_maker_bom(offered.bom)
    # System images may be another manufacturer's.
    supplier = None if offered.slot in SYSTEM_SLOTS else origin.supplier
    return image_bom(offered.slot, offered.image, maker=maker, supplier=supplier)


def _materials(images: Sequence[OfferedImage], origin: Origin) -> Iterator[Resource]:
    if origin.source_uri is not None or origin.source_commit is not None:
        yield Resource(name="source", uri=origin.source_uri, digest=Digests(git_commit=origin.source_commit))
    for offered in images:
        what = offered.image.info.name
        parts = {"payload": offered.image.payload, "golden vectors": offered.golden, "bill of materials": offered.bom}
        for part, content in parts.items():
            if content is not None:
                yield Resource(name=f"{part} of {what}", digest=Digests(sha256=digest_of(content)))
