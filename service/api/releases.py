"""Releases: signed by the operator's CLI, verified and taken into force here."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, status
from pydantic import BaseModel, Field

from protocol.geometry import Slot
from service.api.auth import ReleaserActor, ViewerActor
from service.api.idempotency import idempotency_header
from service.api.paging import Page, Paging
from service.api.publications import MAX_PUBLICATION_BYTES, IdempotentPublicationRoute
from service.api.repository import RoleFiles
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.domain.release import Release

router = APIRouter(prefix="/releases", tags=["releases"], route_class=IdempotentPublicationRoute)

TargetName = Annotated[str, Field(max_length=300)]
ReleaseName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class ReleaseImageModel(BaseModel):
    """One image of a release."""

    slot: Slot
    target: str
    sha256: str
    length: int


class ReleaseModel(BaseModel):
    """A release in force.

    Attributes:
        goes_back: by slot, SHA-256 of the newer images that it may replace by an older one.
        way_back_of: name of the release that this one undoes.
        support_ends: until when its maker mends it.
        must_pass: devices must pass through it.
        after: by slot, name of the release that devices must have passed through before.
    """

    id: str
    name: str
    counter: int
    factory: bool
    target: str
    images: list[ReleaseImageModel]
    created_at: datetime
    created_by: str
    goes_back: dict[Slot, list[str]]
    way_back_of: str | None
    support_ends: datetime | None
    must_pass: bool
    after: dict[Slot, str]


class NewRelease(RequestModel):
    """A release to bring into force; its artifacts are stored already.

    Attributes:
        metadata: signed files of the next version by role, without .json, base64.
        release_target: target name of its release document.
        way_back_target: target name of the document of the release that undoes it.
    """

    name: ReleaseName
    metadata: RoleFiles
    release_target: TargetName
    way_back_target: TargetName | None = None


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    dependencies=[Depends(idempotency_header)],
    max_body_size=MAX_PUBLICATION_BYTES,
)
async def create_release(actor: ReleaserActor, services: ServicesParameter, new: NewRelease) -> ReleaseModel:
    """Verify signed metadata and bring it into force with a new snapshot and timestamp."""
    release = await services.releases.create(
        actor,
        name=new.name,
        unverified=new.metadata,
        release_target=new.release_target,
        way_back_target=new.way_back_target,
    )
    return _model(release)


@router.get("")
async def list_releases(_actor: ViewerActor, services: ServicesParameter, paging: Paging) -> Page[ReleaseModel]:
    """List releases, newest first."""
    found = await services.releases.page(before_counter=paging.after_number, limit=paging.fetch)
    return paging.page(found, key=lambda release: release.counter, model=_model)


@router.get("/{release}")
async def show_release(
    _actor: ViewerActor, services: ServicesParameter, release: Annotated[str, Path(max_length=64)]
) -> ReleaseModel:
    """Show a release, by id or name."""
    return _model(await services.releases.get(release))


def _model(release: Release) -> ReleaseModel:
    return ReleaseModel(
        id=release.release_id,
        name=release.name,
        counter=release.counter,
        factory=release.factory,
        target=release.target,
        images=[
            ReleaseImageModel(slot=slot, target=image.target, sha256=image.sha256, length=image.length)
            for slot, image in release.images.items()
        ],
        created_at=release.created_at,
        created_by=release.created_by,
        goes_back={slot: list(digests) for slot, digests in release.goes_back.items()},
        way_back_of=release.way_back_of,
        support_ends=release.support_ends,
        must_pass=release.must_pass,
        after={slot: must.release for slot, must in release.after.items()},
    )
