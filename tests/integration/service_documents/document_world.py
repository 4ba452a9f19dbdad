"""An update world that takes documents into force, and says what is inside images and where it runs."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from tuf.api.metadata import TargetFile
from typing_extensions import override

from pki.metadata import content_target
from pki.roles import OfflineKey
from protocol.cyclonedx import (
    Affected,
    Analysis,
    AnalysisState,
    Component,
    ComponentType,
    Metadata,
    Statement,
    Vex,
)
from protocol.document import canonical_json
from protocol.geometry import Slot
from protocol.image import digest_of, verify_package
from protocol.provenance import Digests, ReleaseParameters, Resource, make_provenance, sign_provenance
from protocol.updates import DocumentCustom, DocumentKind, ReleaseDocument, document_target_name
from service.adapters.artifact_store import ObjectArtifactStore, open_store
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.application.document_repository import ComponentQuery
from service.application.documents import DocumentIndex, Documents
from service.application.releases import Releases
from service.application.repository import ImageRepository
from service.cli.bills import image_bom
from service.cli.bills_maker import read_maker_bom
from tests.integration.service_updates.update_world import UpdateWorld, Upload, add_target
from tests.service_folder import Folders

SERIAL = "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79"


class DocumentWorld(UpdateWorld):
    """The update half with documents."""

    @override
    def __post_init__(self) -> None:
        super().__post_init__()
        store = ObjectArtifactStore(open_store("", default_folder=self.folders.service / "artifacts"))
        self.repository = ImageRepository(
            self.unit_of_work, metadata=self.metadata, clock=self.clock, listeners=(DocumentIndex(store),)
        )
        self.releases = Releases(self.unit_of_work, repository=self.repository, clock=self.clock, entropy=self.entropy)
        self.documents = Documents(self.unit_of_work)

    async def documented(self, name: str, images: Mapping[Slot, bytes], libraries: Mapping[str, str]) -> Upload:
        """Sign a release whose images each have a bill with some libraries, by name and version."""
        upload = await self.prepare(name, images)
        for slot, package in images.items():
            self.add_bill(upload, package, self.bill(slot, package, libraries))
        self.add_provenance(upload, list(images.values()))
        return upload

    def bill(self, slot: Slot, package: bytes, libraries: Mapping[str, str]) -> bytes:
        """Make the bill of a package, as the CLI does."""
        components = [
            {"type": "library", "name": library, "version": version, "purl": f"pkg:generic/{library}@{version}"}
            for library, version in libraries.items()
        ]
        own = {"bomFormat": "CycloneDX", "specVersion": "1.6", "components": components}
        image = verify_package(package, [self.keys.load(OfflineKey.PACKAGE).public_key], kind=None)
        return image_bom(slot, image, maker=read_maker_bom(json.dumps(own).encode()))

    def add_bill(self, upload: Upload, package: bytes, bill: bytes) -> None:
        """List a bill, and have the package's target name it."""
        (index,) = (i for i, target in enumerate(upload.targets) if target.hashes["sha256"] == digest_of(package))
        image = upload.targets[index]
        name = document_target_name(DocumentKind.BOM, digest_of(bill))
        custom = {**(image.custom or {}), "bom": name}
        upload.targets[index] = content_target(image.path, package, custom)
        add_document(upload, DocumentKind.BOM, custom["image_id"], bill)

    def add_provenance(self, upload: Upload, packages: list[bytes], *, key: str = OfflineKey.PACKAGE) -> bytes:
        """List provenance, and have the release document name it."""
        subject = [Resource(digest=Digests(sha256=digest_of(package))) for package in packages]
        made = make_provenance(
            ReleaseParameters(release=upload.name), subject, [], tinyfleet="1", finished_on=self.clock.now()
        )
        provenance = sign_provenance(made, self.keys.load(key))
        name = document_target_name(DocumentKind.PROVENANCE, digest_of(provenance))
        add_document(upload, DocumentKind.PROVENANCE, upload.name, provenance)
        document = ReleaseDocument.model_validate_json(upload.contents[upload.release_target])
        changed = canonical_json(document.model_copy(update={"documents": {DocumentKind.PROVENANCE: name}}))
        upload.targets = [target for target in upload.targets if target.path != upload.release_target]
        add_target(upload, upload.release_target, changed)
        return provenance

    async def run(self, device_id: str, slot: Slot, package: bytes) -> None:
        """Have a device run a package."""
        async with self.unit_of_work() as work:
            await work.installed.put(device_id, {slot: digest_of(package)}, at=self.clock.now())
            await work.commit()

    async def running(self, *, limit: int = 100, **wanted: str) -> list[tuple[str, Slot]]:
        """Return which devices run a component, and check that they are counted right."""
        found = await self.documents.devices(ComponentQuery.parse(**wanted), after=None, limit=limit)
        return [(device.device_id, device.slot) for device in found.devices]


def add_document(upload: Upload, kind: DocumentKind, subject: str, content: bytes) -> TargetFile:
    """List a document."""
    name = document_target_name(kind, digest_of(content))
    custom = DocumentCustom(kind=kind, subject=subject).model_dump(mode="json")
    target = content_target(name, content, custom)
    add_target(upload, name, content, target)
    return target


def statement(world: DocumentWorld, release: str, state: AnalysisState, **changes: Any) -> bytes:
    """An exploitability document about one library."""
    facts = {"type": ComponentType.LIBRARY, "bom_ref": "1", "name": "mbedtls", "version": "3.6.0"}
    said = Statement(id="CVE-2026-0001", analysis=Analysis(state=state), affects=(Affected(ref="1"),))
    head = Metadata(
        timestamp=world.clock.now() + timedelta(0), component=Component(type=ComponentType.FIRMWARE, name=release)
    )
    component = Component(**(facts | changes))
    return canonical_json(Vex(serial_number=SERIAL, metadata=head, components=(component,), vulnerabilities=(said,)))


@asynccontextmanager
async def open_document_world(folders: Folders, url: str) -> AsyncIterator[DocumentWorld]:
    """Open the world on an empty database."""
    database = Database(database_url(url))
    try:
        await migrate(database)
        world = DocumentWorld(folders, database)
        await world.begin()
        yield world
    finally:
        await database.close()
