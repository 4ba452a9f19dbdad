"""Metadata of both repositories: for operators to verify before they sign, and to bring the next version into force.

`metadata_name` reads file names for devices, too.
"""

import re
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic import Base64Bytes, BaseModel, Field

from service.api.auth import AdminActor, ReleaserActor, ViewerActor
from service.api.publications import MAX_PUBLICATION_BYTES, PublicationRoute
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.application.repository import UnknownMetadataError
from service.application.repository_status import RoleStatus
from service.application.update_repositories import MetadataRole, RepositoryName

router = APIRouter(prefix="/repository", tags=["repository"], route_class=PublicationRoute)

MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_FILES = 2**12 + 16  # every hash bin, and what is above them
_NAME = re.compile(r"(?:([1-9]\d{0,17})\.)?([a-z0-9][a-z0-9-]{0,31})\.json\Z")
_JSON_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}}, "description": "Signed metadata."}
}
RoleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
SignedFile = Annotated[Base64Bytes, Field(max_length=MAX_FILE_BYTES)]
RoleFiles = Annotated[dict[RoleName, SignedFile], Field(max_length=MAX_FILES)]


class RoleModel(BaseModel):
    """A role of a repository; hash bins count as one, named `bin`.

    Attributes:
        version: None where files are made for each device.
        signed_by: how many keys have signed the file.
        files: how many there are.
        warnings: what an operator should see to.
    """

    repository: RepositoryName
    role: str
    version: int | None
    expires_at: datetime | None
    threshold: int
    key_ids: list[str]
    signed_by: int | None
    files: int
    warnings: list[str]


class NewFiles(RequestModel):
    """Signed files that come into force together.

    Attributes:
        metadata: by role, without .json, base64.
    """

    metadata: Annotated[RoleFiles, Field(min_length=1)]


class NewRoot(RequestModel):
    """A root that comes into force.

    Attributes:
        metadata: the signed root.json of the next version, base64.
        roles: files of the Image repository that come with it, by role, without .json, base64.
    """

    metadata: SignedFile
    roles: RoleFiles = Field(default_factory=dict)


class Versions(BaseModel):
    """What is in force now, by role."""

    versions: dict[str, int]


class VersionModel(BaseModel):
    """The version in force now."""

    version: int


def metadata_name(name: str) -> tuple[str, int | None]:
    """Return role and version that a file name asks for; no version stands for the one in force.

    Raises:
        UnknownMetadataError: it is no name of a metadata file.
    """
    found = _NAME.match(name)
    if found is None:
        raise UnknownMetadataError(f"metadata: expected a name such as 3.targets.json, found {name[:40]!r}")
    return found[2], int(found[1]) if found[1] else None


@router.get("")
async def list_roles(_actor: ViewerActor, services: ServicesParameter) -> list[RoleModel]:
    """Show every role of both repositories: whose signatures it needs, when it ends, what to see to."""
    return [_role(status) for status in await services.repository_status.roles()]


@router.post("/image/targets", max_body_size=MAX_PUBLICATION_BYTES)
async def publish_targets(actor: ReleaserActor, services: ServicesParameter, new: NewFiles) -> Versions:
    """Verify signed roles and bring them into force: delegations, a team's images, documents, renewals."""
    return Versions(versions=dict(await services.releases.publish(actor, new.metadata)))


@router.post("/{repository}/root", max_body_size=MAX_PUBLICATION_BYTES)
async def change_root(
    actor: AdminActor, services: ServicesParameter, repository: RepositoryName, new: NewRoot
) -> VersionModel:
    """Verify the root that follows and bring it into force; what online keys sign is signed again."""
    version = await services.roots.change(actor, repository, unverified=new.metadata, unverified_roles=new.roles)
    return VersionModel(version=version)


@router.get("/image/{file}", response_class=Response, responses=_JSON_FILE)
async def show_image_metadata(
    _actor: ViewerActor, services: ServicesParameter, file: Annotated[str, Path(max_length=60)]
) -> Response:
    """Show a file of the Image repository."""
    role, version = metadata_name(file)
    return metadata_response((await services.repository.file(RepositoryName.IMAGE, role, version=version)).content)


@router.get("/director/{file}", response_class=Response, responses=_JSON_FILE)
async def show_director_root(
    _actor: ViewerActor, services: ServicesParameter, file: Annotated[str, Path(max_length=60)]
) -> Response:
    """Show a root of the Director; its other files are made for one device each."""
    role, version = metadata_name(file)
    if role != MetadataRole.ROOT:
        raise UnknownMetadataError(f"Director: expected a name such as 2.root.json, found {file[:40]!r}")
    found = await services.repository.file(RepositoryName.DIRECTOR, role, version=version)
    return metadata_response(found.content)


def metadata_response(content: bytes) -> Response:
    """Return signed metadata byte for byte."""
    return Response(content, media_type="application/json", headers={"Cache-Control": "no-cache"})


def _role(status: RoleStatus) -> RoleModel:
    return RoleModel(
        repository=status.repository,
        role=status.role,
        version=status.version,
        expires_at=status.expires_at,
        threshold=status.threshold,
        key_ids=list(status.key_ids),
        signed_by=status.signed_by,
        files=status.files,
        warnings=list(status.warnings),
    )
