"""Documents that go with a release: a bill of materials of each new image, and the release's provenance.

`service.cli.publishing` puts them among the release's targets, so that the same signatures cover images and documents.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version

from tuf.api.metadata import TargetFile

from pki.keystore import KeyStore
from pki.metadata import content_target
from pki.repository import RepositoryInForce
from pki.roles import OfflineKey
from protocol.geometry import SYSTEM_SLOTS
from protocol.image import digest_of
from protocol.provenance import Digests, ReleaseParameters, Resource, make_provenance, sign_provenance
from protocol.updates import (
    DocumentCustom,
    DocumentKind,
    document_target_name,
    image_custom,
    image_target_name,
)
from service.cli.bills import image_bom
from service.cli.bills_maker import read_maker_bom
from service.cli.offered import OfferedImage


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


@dataclass(frozen=True, slots=True)
class ReleaseDocuments:
    """Documents that are to be signed together with a release.

    Attributes:
        targets: one for each document.
        contents: bytes by target name.
        boms: target name of each image's bill of materials, by image id: `ImageCustom.bom`.
        of_release: target names of what is said of the release: `ReleaseDocument.documents`.
    """

    targets: tuple[TargetFile, ...]
    contents: Mapping[str, bytes]
    boms: Mapping[str, str] = field(default_factory=dict)
    of_release: Mapping[DocumentKind, str] = field(default_factory=dict)


def make_release_documents(
    in_force: RepositoryInForce,
    images: Sequence[OfferedImage],
    keys: KeyStore,
    *,
    name: str,
    origin: Origin,
    now: datetime,
) -> ReleaseDocuments:
    """Make the documents of a release.

    An image that is in force already keeps the bill of materials that it has, or has none.

    Args:
        in_force: what the release follows.
        images: of the release, verified.
        keys: the package key among them signs the provenance.
        name: of the release.
        origin: what the operator says.
        now: UTC, aware.

    Raises:
        MakerBomError, BomError: a maker's bill of materials cannot be taken in.
        KeyStoreError: the package key cannot be used.
    """
    provenance = _provenance(images, keys, name=name, origin=origin, now=now)
    documents = [document_file(DocumentKind.PROVENANCE, name, provenance)]
    boms = {}
    for offered in images:
        image_id = offered.image.info.image_id
        known = in_force.find(image_target_name(offered.slot, image_id))
        if known is None:
            documents.append(document_file(DocumentKind.BOM, image_id, _bom(offered, origin)))
            boms[image_id] = documents[-1][0].path
        elif (bom := image_custom(known).bom) is not None:
            boms[image_id] = bom
    return ReleaseDocuments(
        targets=tuple(target for target, _content in documents),
        contents={target.path: content for target, content in documents},
        boms=boms,
        of_release={DocumentKind.PROVENANCE: documents[0][0].path},
    )


def document_file(kind: DocumentKind, subject: str, content: bytes) -> tuple[TargetFile, bytes]:
    """Return a document's target and its bytes."""
    custom = DocumentCustom(kind=kind, subject=subject).model_dump(mode="json")
    return content_target(document_target_name(kind, digest_of(content)), content, custom), content


def _bom(offered: OfferedImage, origin: Origin) -> bytes:
    maker = None if offered.bom is None else read_maker_bom(offered.bom)
    # System images may be another manufacturer's.
    supplier = None if offered.slot in SYSTEM_SLOTS else origin.supplier
    return image_bom(offered.slot, offered.image, maker=maker, supplier=supplier)


def _provenance(images: Sequence[OfferedImage], keys: KeyStore, *, name: str, origin: Origin, now: datetime) -> bytes:
    subject = {
        offered.image.digest: Resource(
            name=image_target_name(offered.slot, offered.image.info.image_id),
            digest=Digests(sha256=offered.image.digest),
        )
        for offered in images
    }
    provenance = make_provenance(
        ReleaseParameters(release=name, command=("tinyfleet", *sys.argv[1:])),
        tuple(subject.values()),
        tuple(_materials(images, origin)),
        tinyfleet=version("tinyfleet"),
        finished_on=now.replace(microsecond=0),
    )
    return sign_provenance(provenance, keys.load(OfflineKey.PACKAGE))


def _materials(images: Sequence[OfferedImage], origin: Origin) -> Iterator[Resource]:
    if origin.source_uri is not None or origin.source_commit is not None:
        yield Resource(name="source", uri=origin.source_uri, digest=Digests(git_commit=origin.source_commit))
    for offered in images:
        what = offered.image.info.name
        parts = {"payload": offered.image.payload, "golden vectors": offered.golden, "bill of materials": offered.bom}
        for part, content in parts.items():
            if content is not None:
                yield Resource(name=f"{part} of {what}", digest=Digests(sha256=digest_of(content)))
