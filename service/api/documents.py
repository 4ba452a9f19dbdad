"""Documents in force: bills of materials, provenance, exploitability statements; handed out as they came."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import BaseModel

from protocol.updates import DocumentKind
from service.api.artifacts import BlocksResponse
from service.api.auth import ViewerActor
from service.api.services import Services, ServicesParameter
from service.application.document_repository import StoredDocument

router = APIRouter(tags=["documents"])

_JSON_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "The document."},
}


class DocumentModel(BaseModel):
    """A document in force.

    Attributes:
        target: under which the Image repository's signed targets list it.
        subject: image id, or name of a release.
    """

    target: str
    kind: DocumentKind
    subject: str
    sha256: str
    length: int
    created_at: datetime


class DocumentList(BaseModel):
    """Documents, oldest first; of two that say something of the same, the newer one counts."""

    items: list[DocumentModel]


@router.get("/releases/{release}/documents")
async def list_release_documents(
    _actor: ViewerActor, services: ServicesParameter, release: Annotated[str, Path(max_length=64)]
) -> DocumentList:
    """List what is said of a release and of its images."""
    found = await services.documents.of_release(release)
    return DocumentList(items=[_model(document) for document in found])


@router.get("/documents/{sha256}", response_class=Response, responses=_JSON_FILE)
async def read_document(
    _actor: ViewerActor, services: ServicesParameter, sha256: Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
) -> Response:
    """Return a document's bytes; the signed targets name their length and hash."""
    return _bytes(services, await services.documents.find(sha256))


@router.get("/images/{image_id}/bom", response_class=Response, responses=_JSON_FILE)
async def read_bill_of_materials(
    _actor: ViewerActor, services: ServicesParameter, image_id: Annotated[str, Path(max_length=36)]
) -> Response:
    """Return an image's bill of materials."""
    return _bytes(services, await services.documents.bom_of(image_id))


def _bytes(services: Services, document: StoredDocument) -> Response:
    return BlocksResponse(
        services.artifacts.read(document.sha256, start=0, end=document.length),
        length=document.length,
        headers=[(b"etag", f'"{document.sha256}"'.encode())],
        media_type="application/json",
    )


def _model(document: StoredDocument) -> DocumentModel:
    return DocumentModel(
        target=document.path,
        kind=document.kind,
        subject=document.subject,
        sha256=document.sha256,
        length=document.length,
        created_at=document.created_at,
    )
