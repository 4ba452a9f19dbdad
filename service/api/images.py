"""Images: what the Image repository's targets in force list."""

from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from protocol.geometry import ImageKind
from service.api.auth import ViewerActor
from service.api.paging import Page, Paging
from service.api.services import ServicesParameter
from service.application.update_repositories import ImageTarget

router = APIRouter(prefix="/images", tags=["images"])


class ImageModel(BaseModel):
    """An image in force."""

    id: str
    component_id: str
    name: str
    kind: ImageKind
    hardware_ids: list[str]
    security_counter: int
    target: str
    sha256: str
    length: int
    golden: str | None
    since_targets_version: int


@router.get("")
async def list_images(_actor: ViewerActor, services: ServicesParameter, paging: Paging) -> Page[ImageModel]:
    """List images by target name."""
    found = await services.releases.images(after_path=paging.after or "", limit=paging.fetch)
    return paging.page(found, key=lambda image: image.path, model=_model)


@router.get("/{image_id}")
async def show_image(
    _actor: ViewerActor, services: ServicesParameter, image_id: Annotated[str, Path(max_length=36)]
) -> ImageModel:
    """Show an image."""
    return _model(await services.releases.image(image_id))


def _model(image: ImageTarget) -> ImageModel:
    custom = image.custom
    return ImageModel(
        id=custom.image_id,
        component_id=custom.component_id,
        name=custom.name,
        kind=custom.slot_kind,
        hardware_ids=list(custom.hardware_ids),
        security_counter=custom.security_counter,
        target=image.path,
        sha256=image.sha256,
        length=image.length,
        golden=custom.golden,
        since_targets_version=image.since_version,
    )
