"""Documents come into force with the release that names them, or nothing does."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pki.roles import OfflineKey
from protocol.cyclonedx import AnalysisState
from protocol.document import DocumentError, canonical_json
from protocol.errors import SignatureError
from protocol.geometry import Slot
from protocol.image import digest_of
from protocol.updates import DocumentKind, ReleaseDocument
from service.application.document_repository import ComponentQuery
from service.application.documents import ForeignBomError, UnknownDocumentError
from service.domain.release import InvalidReleaseError, InvalidTargetError, UnknownImageError, UnknownReleaseError
from tests.integration.service_documents.document_world import DocumentWorld, add_document, statement
from tests.integration.service_updates.update_world import RELEASER, add_target, in_blocks

A7 = Slot.A7_APPLICATION
MBEDTLS = {"mbedtls": "3.6.0"}


async def components(world: DocumentWorld, **wanted: str) -> list[str]:
    """Names of the components that are found."""
    found = await world.documents.components(ComponentQuery.parse(**wanted), after_number=0, limit=100)
    return [each.component.name for each in found]


async def test_documents_of_a_release_are_found_and_read(documented: DocumentWorld) -> None:
    """By the release, by the image, by the hash; the bytes are those that came."""
    world, package = documented, documented.package("app@1.0.0")
    upload = await world.documented("main", {A7: package}, MBEDTLS)
    await world.hand_over(upload)
    found = await world.documents.of_release("main")
    assert [document.kind for document in found] == [DocumentKind.BOM, DocumentKind.PROVENANCE]
    for document in found:
        content = upload.contents[document.path]
        assert (document.sha256, document.length) == (digest_of(content), len(content))
        assert await world.documents.find(document.sha256) == document
        blocks = [block async for block in world.artifacts.read(document.sha256, start=0, end=document.length)]
        assert b"".join(blocks) == content
    assert await world.documents.bom_of(found[0].subject) == found[0]
    assert await components(world, name="mbedtls") == ["mbedtls"]
    assert await components(world, name="app", version="1.0.0") == ["app"]


async def test_statement_about_a_release_may_come_later(documented: DocumentWorld) -> None:
    """Of two, both stay, in their order."""
    world, package = documented, documented.package("app@1.0.0")
    await world.hand_over(await world.documented("main", {A7: package}, MBEDTLS))
    for number, state in enumerate((AnalysisState.IN_TRIAGE, AnalysisState.NOT_AFFECTED)):
        later = await world.prepare(f"later-{number}", {A7: world.package(f"app@1.0.{number + 1}")})
        world.clock.advance(1)
        add_document(later, DocumentKind.VEX, "main", statement(world, "main", state))
        await world.hand_over(later)
    said = await world.documents.statements(vulnerability="CVE-2026-0001", release="main", after_number=0, limit=9)
    assert [each.state for each in said] == ["in_triage", "not_affected"]
    rest = await world.documents.statements(vulnerability=None, release=None, after_number=said[0].number, limit=9)
    assert list(rest) == list(said[1:])
    kinds = [document.kind for document in await world.documents.of_release("main")]
    assert kinds.count(DocumentKind.VEX) == 2


async def test_what_is_not_there_is_not_found(documented: DocumentWorld) -> None:
    """Each by its own error."""
    world = documented
    await world.release("bare")
    (image,) = await world.releases.images(after_path="", limit=1)
    with pytest.raises(UnknownDocumentError, match="expected a bill of materials, found none"):
        await world.documents.bom_of(image.custom.image_id)
    with pytest.raises(UnknownImageError, match="found 'x'"):
        await world.documents.bom_of("x")
    with pytest.raises(UnknownReleaseError, match="found 'x'"):
        await world.documents.of_release("x")
    with pytest.raises(UnknownDocumentError, match="expected the SHA-256 of one in force"):
        await world.documents.find(image.sha256)
    assert await world.documents.of_release("bare") == []


async def test_bill_of_other_bytes_brings_nothing_into_force(documented: DocumentWorld) -> None:
    """It bears the image's id, and the digest of another package."""
    world, package = documented, documented.package("app@1.0.0")
    upload = await world.prepare("main", {A7: package})
    other = world.package("app@1.0.0", payload=b"other bytes, same ids")
    world.add_bill(upload, package, world.bill(A7, other, MBEDTLS))
    with pytest.raises(ForeignBomError, match="expected a bill of materials of its bytes, found another"):
        await world.hand_over(upload)
    assert await components(world, name="mbedtls") == []
    with pytest.raises(UnknownReleaseError, match="main"):
        await world.releases.get("main")


async def test_bill_of_another_image_brings_nothing_into_force(documented: DocumentWorld) -> None:
    """The target says one image, the bytes say another."""
    world, package = documented, documented.package("app@1.0.0")
    upload = await world.prepare("main", {A7: package})
    world.add_bill(upload, package, world.bill(A7, world.package("other@1.0.0"), MBEDTLS))
    with pytest.raises(InvalidTargetError, match="expected subject"):
        await world.hand_over(upload)
    assert await components(world, name="mbedtls") == []


async def test_bill_that_no_image_names_is_no_bill_of_it(documented: DocumentWorld) -> None:
    """A team may list bills, but not speak for images of others."""
    world, package = documented, documented.package("app@1.0.0")
    await world.hand_over(await world.prepare("main", {A7: package}))
    (image,) = await world.releases.images(after_path="", limit=1)
    later = await world.prepare("later", {A7: world.package("app@1.0.1")})
    add_document(later, DocumentKind.BOM, image.custom.image_id, world.bill(A7, package, MBEDTLS))
    await world.hand_over(later)
    assert await components(world, name="mbedtls") == []
    assert await world.documents.of_release("main") == []


async def test_provenance_by_another_key_is_refused(documented: DocumentWorld) -> None:
    """The golden key signs golden vectors, and says nothing of images."""
    world, package = documented, documented.package("app@1.0.0")
    upload = await world.prepare("main", {A7: package})
    provenance = world.add_provenance(upload, [package], key=OfflineKey.GOLDEN)
    with pytest.raises(SignatureError, match="expected a signature by one of 1 trusted keys"):
        await world.take(provenance)
    with pytest.raises(SignatureError, match="expected a signature"):
        await world.hand_over(upload)


@pytest.mark.parametrize("names", [["app@1.0.0", "more@1.0.0"], ["other@1.0.0"]], ids=["more", "other"])
async def test_provenance_of_other_images_brings_nothing_into_force(
    documented: DocumentWorld, names: list[str]
) -> None:
    """It is of another set: an image too many, or another one."""
    world = documented
    upload = await world.prepare("main", {A7: world.package("app@1.0.0")})
    world.add_provenance(upload, [world.package(name) for name in names])
    with pytest.raises(InvalidReleaseError, match="release main: expected its own provenance"):
        await world.hand_over(upload)
    assert await world.releases.page(before_counter=None, limit=9) == []


async def test_provenance_of_an_earlier_release_is_not_taken_again(documented: DocumentWorld) -> None:
    """A release names the provenance that comes with it."""
    world, package = documented, documented.package("app@1.0.0")
    first = await world.documented("main", {A7: package}, MBEDTLS)
    await world.hand_over(first)
    name = next(path for path in first.contents if path.startswith("documents/provenance/"))
    again = await world.prepare("again", {A7: world.package("app@1.0.1")})
    document = ReleaseDocument.model_validate_json(again.contents[again.release_target])
    changed = canonical_json(document.model_copy(update={"documents": {DocumentKind.PROVENANCE: name}}))
    again.targets = [target for target in again.targets if target.path != again.release_target]
    add_target(again, again.release_target, changed)
    with pytest.raises(InvalidReleaseError, match="release again: expected its own provenance"):
        await world.hand_over(again)


@pytest.mark.parametrize("case", ["deep", "huge", "schema", "duplicate", "purl", "spaces"])
async def test_hostile_bill_is_refused_before_it_is_stored(documented: DocumentWorld, case: str) -> None:
    """Whatever a releaser's stolen credential uploads."""
    world = documented
    bill = world.bill(A7, world.package("app@1.0.0"), MBEDTLS)
    hostile = HOSTILE[case](json.loads(bill))
    content = hostile if isinstance(hostile, bytes) else _bytes(hostile)
    with pytest.raises(DocumentError):
        await world.artifacts.take(RELEASER, digest_of(content), in_blocks(content))
    async with world.unit_of_work(read_only=True) as work:
        assert await work.artifacts.find([digest_of(content)]) == {}


def _bytes(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _spoil(**changes: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda bill: bill | changes


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "deep": lambda _bill: b'{"bomFormat":"CycloneDX","components":[' + b'{"components":[' * 50_000,
    "huge": _spoil(components=[{"type": "library", "name": "n" * 100}] * 60_000),
    "schema": _spoil(surprise=True),
    "duplicate": lambda bill: bill | {"components": bill["components"] * 2},
    "purl": _spoil(components=[{"type": "library", "name": "n", "purl": "pkg://///"}]),
    "spaces": lambda bill: json.dumps(bill).encode(),
}
