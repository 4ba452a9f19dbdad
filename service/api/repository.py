"""Metadata in force, for operators to verify before they sign; `metadata_name` reads file names for devices, too."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from service.api.auth import ViewerActor
from service.api.services import ServicesParameter
from service.application.repository import UnknownMetadataError
from service.application.update_repositories import MetadataRole, RepositoryName

router = APIRouter(prefix="/repository", tags=["repository"])

_NAME = re.compile(r"(?:([1-9]\d{0,17})\.)?(root|targets|snapshot|timestamp)\.json\Z")
_JSON_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}}, "description": "Signed metadata."}
}


def metadata_name(name: str) -> tuple[MetadataRole, int | None]:
    """Return role and version that a file name asks for; no version stands for the one in force.

    Raises:
        UnknownMetadataError: it is no name of a metadata file.
    """
    found = _NAME.match(name)
    if found is None:
        raise UnknownMetadataError(f"metadata: expected a name such as 3.targets.json, found {name[:40]!r}")
    return MetadataRole(found[2]), int(found[1]) if found[1] else None


@router.get("/image/{file}", response_class=Response, responses=_JSON_FILE)
async def show_image_metadata(
    _actor: ViewerActor, services: ServicesParameter, file: Annotated[str, Path(max_length=60)]
) -> Response:
    """Show a file of the Image repository."""
    role, version = metadata_name(file)
    return metadata_response((await services.repository.file(RepositoryName.IMAGE, role, version=version)).content)


@router.get("/director/root.json", response_class=Response, responses=_JSON_FILE)
async def show_director_root(_actor: ViewerActor, services: ServicesParameter) -> Response:
    """Show the Director's root."""
    found = await services.repository.file(RepositoryName.DIRECTOR, MetadataRole.ROOT)
    return metadata_response(found.content)


def metadata_response(content: bytes) -> Response:
    """Return signed metadata byte for byte."""
    return Response(content, media_type="application/json", headers={"Cache-Control": "no-cache"})
