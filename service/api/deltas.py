"""Patches: what became of each, and how large it is."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel

from protocol.updates import delta_target_name
from service.api.auth import ViewerActor
from service.api.paging import Page, Paging
from service.api.services import ServicesParameter
from service.application.delta_repository import Delta, DeltaState
from service.application.deltas import key_of

router = APIRouter(prefix="/deltas", tags=["deltas"])
Sha256Path = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]


class DeltaModel(BaseModel):
    """A patch between two images.

    Attributes:
        target: under which the role `deltas` lists it; null where devices are not offered it.
        percent: its size in percent of the full image.
        reason: of its state, in words.
    """

    from_sha256: str
    to_sha256: str
    state: DeltaState
    reason: str
    format: str
    target: str | None
    patch_sha256: str | None
    patch_length: int | None
    full_length: int
    percent: float | None
    created_at: datetime
    updated_at: datetime


@router.get("")
async def list_deltas(_actor: ViewerActor, services: ServicesParameter, paging: Paging) -> Page[DeltaModel]:
    """List patches, those to the same image beside each other."""
    found = await services.deltas.page(after=paging.after, limit=paging.fetch)
    return paging.page(found, key=key_of, model=_model)


@router.get("/{from_sha256}/{to_sha256}")
async def show_delta(
    _actor: ViewerActor, services: ServicesParameter, from_sha256: Sha256Path, to_sha256: Sha256Path
) -> DeltaModel:
    """Show the patch from one image to another."""
    return _model(await services.deltas.get(from_sha256, to_sha256))


def _model(delta: Delta) -> DeltaModel:
    is_offered = delta.state is DeltaState.OFFERED
    return DeltaModel(
        from_sha256=delta.from_sha256,
        to_sha256=delta.to_sha256,
        state=delta.state,
        reason=delta.reason,
        format=delta.format,
        target=delta_target_name(delta.from_sha256, delta.to_sha256) if is_offered else None,
        patch_sha256=delta.patch_sha256,
        patch_length=delta.patch_length,
        full_length=delta.full_length,
        percent=delta.percent,
        created_at=delta.created_at,
        updated_at=delta.updated_at,
    )
