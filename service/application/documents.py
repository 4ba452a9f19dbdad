"""Documents about images and releases: taken into force with the metadata that lists them, found and handed out.

What a bill of materials lists and what an exploitability document says goes into tables, so that "which devices run
this component" reads two indexes. The bytes themselves stay in the artifact store and are handed out as they came.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath

from tuf.api.metadata import TargetFile

from protocol.cyclonedx import Bom, Vex, every_component, read_bom, read_vex
from protocol.geometry import Slot
from protocol.updates import DocumentKind, document_custom, image_custom
from service.application.artifacts import ArtifactStore, UnknownArtifactError
from service.application.document_repository import (
    ComponentQuery,
    ListedComponent,
    RunningDevice,
    StoredDocument,
    StoredStatement,
)
from service.application.publication import Publication
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.application.update_repositories import ImageTarget
from service.domain.errors import CursorError, InvalidError, NotFoundError
from service.domain.release import target_sha256

DOCUMENTS = "documents/"
IMAGES = "images/"


class ForeignBomError(InvalidError):
    """An image names a bill of materials of another image."""


class UnknownDocumentError(NotFoundError):
    """There is no such document in force."""


@dataclass(frozen=True, slots=True)
class FoundComponent:
    """A component in an image.

    Attributes:
        image: in force; None where only its bill of materials is.
        devices: how many run the image, by slot; one that runs it in two slots is in both.
    """

    component: ListedComponent
    image: ImageTarget | None
    devices: Mapping[Slot, int]


@dataclass(frozen=True, slots=True)
class FoundDevices:
    """A page of devices that run a component.

    Attributes:
        images: those that they run, by SHA-256.
    """

    devices: Sequence[RunningDevice]
    images: Mapping[str, ImageTarget]


class DocumentIndex:
    """Indexes documents when they come into force; implements `PublicationListener`."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    async def published(self, work: UnitOfWork, publication: Publication, *, now: datetime) -> None:
        """See `PublicationListener.published`.

        Raises:
            ForeignBomError: an image names a bill of materials that is not of its bytes.
        """
        for name, target in publication.added.items():
            if name.startswith(DOCUMENTS):
                await self._document(work, target, now=now)
            elif name.startswith(IMAGES):
                await self._image(work, target)

    async def _document(self, work: UnitOfWork, target: TargetFile, *, now: datetime) -> None:
        custom, sha256 = document_custom(target), target_sha256(target)
        document = StoredDocument(target.path, custom.kind, custom.subject, sha256, target.length, now)
        await work.documents.add(document)
        if custom.kind is DocumentKind.VEX:
            vex = await asyncio.to_thread(read_vex, await self._bytes(sha256))
            await work.documents.add_statements(list(_statements(vex, document)))

    async def _image(self, work: UnitOfWork, target: TargetFile) -> None:
        name = image_custom(target).bom
        if name is None:
            return
        # Only the bill that its image names is indexed: a team may list bills, but not for others' images.
        bom = await asyncio.to_thread(read_bom, await self._bytes(PurePosixPath(name).stem))
        found = [each.content for each in bom.metadata.component.hashes if each.alg == "SHA-256"]
        if found != [target_sha256(target)]:
            raise ForeignBomError(f"target {target.path}: expected a bill of materials of its bytes, found another")
        await work.documents.add_components(list(_components(bom, target_sha256(target))))

    async def _bytes(self, sha256: str) -> bytes:
        length = await self._store.length(sha256)
        if length is None:
            raise UnknownArtifactError(f"document: expected its bytes in the service, found no artifact {sha256[:12]}…")
        return b"".join([block async for block in self._store.read(sha256, start=0, end=length)])


class Documents:
    """Use cases of documents and of what is inside images."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def find(self, sha256: str) -> StoredDocument:
        """Return a document in force.

        Raises:
            UnknownDocumentError: there is none of this hash.
        """
        async with self._unit_of_work(read_only=True) as work:
            found = await work.documents.find(sha256)
        if found is None:
            raise UnknownDocumentError(f"document: expected the SHA-256 of one in force, found {sha256[:12]}…")
        return found

    async def of_release(self, id_or_name: str) -> Sequence[StoredDocument]:
        """Return the documents about a release, and its images' own bills of materials, oldest first.

        Raises:
            UnknownReleaseError: there is no such release.
        """
        async with self._unit_of_work(read_only=True) as work:
            release = await work.releases.get(id_or_name)
            images = await work.metadata.images_of(list(release.digests.values()))
            boms = {image.custom.bom for image in images.values()}
            about = await work.documents.about([release.name, *(image.custom.image_id for image in images.values())])
        # A team may list bills, but not for others' images: that of an image is the one that its target names.
        return [each for each in about if each.kind is not DocumentKind.BOM or each.path in boms]

    async def bom_of(self, image_id: str) -> StoredDocument:
        """Return an image's bill of materials.

        Raises:
            UnknownImageError: there is no such image in force.
            UnknownDocumentError: it has none.
        """
        async with self._unit_of_work(read_only=True) as work:
            name = (await work.metadata.image(image_id)).custom.bom
            about = await work.documents.about([image_id])
        found = next((document for document in about if document.path == name), None)
        if found is None:
            raise UnknownDocumentError(f"image {image_id}: expected a bill of materials, found none")
        return found

    async def components(self, query: ComponentQuery, *, after_number: int, limit: int) -> Sequence[FoundComponent]:
        """Return at most `limit` components that are looked for, each with its image and how many devices run that."""
        async with self._unit_of_work(read_only=True) as work:
            found = await work.documents.components(query, after_number=after_number, limit=limit)
            digests = {each.image_sha256 for each in found}
            images = await work.metadata.images_of(digests)
            counts = await work.documents.installed_of(digests)
        return [
            FoundComponent(each, images.get(each.image_sha256), counts.get(each.image_sha256, {})) for each in found
        ]

    async def devices(self, query: ComponentQuery, *, after: str | None, limit: int) -> FoundDevices:
        """Return at most `limit` devices that run a component, by slot, image and device.

        Args:
            query: which component.
            after: `device_key` of the last device of the page before.
            limit: of the page.

        Raises:
            CursorError: `after` is no such key.
        """
        start = _parse_key(after)
        async with self._unit_of_work(read_only=True) as work:
            running = await work.documents.installed(query)
            found = await _page(work, running, start=start, limit=limit)
            images = await work.metadata.images_of({each.image_sha256 for each in found})
        return FoundDevices(found, images)

    async def statements(
        self, *, vulnerability: str | None, release: str | None, after_number: int, limit: int
    ) -> Sequence[StoredStatement]:
        """Return at most `limit` statements about vulnerabilities, oldest first."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.documents.statements(
                vulnerability=vulnerability, release=release, after_number=after_number, limit=limit
            )


def device_key(device: RunningDevice) -> str:
    """Return where a device stands in the list of those that run a component."""
    return f"{device.slot} {device.image_sha256} {device.device_id}"


def _parse_key(key: str | None) -> tuple[str, str, str]:
    if key is None:
        return "", "", ""
    parts = key.split(" ")
    if len(parts) != 3:  # noqa: PLR2004 - as `device_key` makes it
        raise CursorError("cursor: expected one of this list, found another")
    return parts[0], parts[1], parts[2]


async def _page(
    work: UnitOfWork, running: Sequence[tuple[Slot, str]], *, start: tuple[str, str, str], limit: int
) -> Sequence[RunningDevice]:
    found: list[RunningDevice] = []
    for slot, sha256 in running:
        if (slot, sha256) < start[:2]:
            continue
        after_id = start[2] if (slot, sha256) == start[:2] else ""
        devices = await work.documents.devices(slot, sha256, after_id=after_id, limit=limit - len(found))
        found += (RunningDevice(device_id, slot, sha256) for device_id in devices)
        if len(found) == limit:
            break
    return found


def _components(bom: Bom, image_sha256: str) -> Iterator[ListedComponent]:
    for each in every_component(bom):
        yield ListedComponent(image_sha256, each.type, each.name, each.version or "", each.purl or "")


def _statements(vex: Vex, document: StoredDocument) -> Iterator[StoredStatement]:
    components = {each.bom_ref: each for each in every_component(vex)}
    for statement in vex.vulnerabilities:
        for affected in statement.affects:
            component, analysis = components[affected.ref], statement.analysis
            yield StoredStatement(
                release=document.subject,
                sha256=document.sha256,
                vulnerability=statement.id,
                name=component.name,
                version=component.version or "",
                purl=component.purl or "",
                state=analysis.state,
                justification=analysis.justification or "",
                detail=analysis.detail or "",
                made_at=vex.metadata.timestamp,
            )
