"""Learned states: operators list, download, restore and reset them; devices back them up and ask for orders."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Response, status
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.routing import Route

from protocol.document import parse_document
from protocol.geometry import Core
from protocol.learned_backup import MAX_UPLOAD_BYTES, LearnedOutcome, LearnedUpload, OrderKind
from service.api.auth import OperatorActor, ViewerActor
from service.api.device_gate import BASE_PATH as DEVICE_BASE_PATH
from service.api.device_gate import document_response, peer_of, read_body
from service.api.devices import DeviceId, Reason
from service.api.idempotency import IdempotentRoute, idempotency_header
from service.api.paging import Page, Paging
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.application.learned_state_repository import LearnedBackup, OrderState, StoredOrder
from service.application.learned_states import LearnedStates
from service.domain.errors import CursorError

router = APIRouter(tags=["learned states"], route_class=IdempotentRoute)
LearningCore = Annotated[Literal[Core.M4_0, Core.M4_1], Path(description="Core that learned: m4-0 or m4-1.")]
DeviceFilter = Annotated[
    str | None, Query(pattern=r"^[0-9a-f]{8,128}$", description="Only of this device: id, or a unique beginning.")
]
_idempotent = [Depends(idempotency_header)]
_STATE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        "description": "The state as its device laid it out.",
    }
}


class LearnedStateModel(BaseModel):
    """The newest backup of what one core of a device learned; `windows` and the rest are its device's word."""

    device_id: str
    core: Core
    component_id: str
    layout_sha256: str
    template_sha256: str
    windows: int
    prototypes: int
    sha256: str
    length: int
    received_at: datetime


class LearnedOrderModel(BaseModel):
    """What an operator ordered, and how it went; `from_device` and `sha256` are of what is restored."""

    id: str
    device_id: str
    core: Core
    kind: OrderKind
    from_device: str | None
    sha256: str | None
    ordered_by: str
    ordered_at: datetime
    state: OrderState
    detail: str
    settled_at: datetime | None


class RestoreRequest(RequestModel):
    """Which device is to have what this one learned: id, or a unique beginning of at least 8 digits."""

    to: Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]


@router.get("/learned-states")
async def list_learned_states(
    _actor: ViewerActor, services: ServicesParameter, paging: Paging, device: DeviceFilter = None
) -> Page[LearnedStateModel]:
    """List backups by device and core."""
    found = await services.learned_states.page(after=_position(paging.after), limit=paging.fetch, device=device)
    return paging.page(found, key=lambda backup: f"{backup.device_id} {backup.core}", model=_state_model)


@router.get("/learned-orders")
async def list_learned_orders(
    _actor: ViewerActor, services: ServicesParameter, paging: Paging, device: DeviceFilter = None
) -> Page[LearnedOrderModel]:
    """List what was ordered, newest first."""
    found = await services.learned_states.page_orders(before=paging.after_number, limit=paging.fetch, device=device)
    return paging.page(found, key=lambda order: order.number, model=_order_model)


@router.get("/devices/{device}/learned/{core}", response_class=Response, responses=_STATE)
async def read_learned_state(
    _actor: ViewerActor, services: ServicesParameter, device: DeviceId, core: LearningCore
) -> Response:
    """Return a backup's bytes."""
    backup = await services.learned_states.get(device, core)
    return Response(backup.content, media_type="application/octet-stream", headers={"ETag": f'"{backup.sha256}"'})


@router.post("/devices/{device}/learned/{core}/restore", status_code=status.HTTP_202_ACCEPTED, dependencies=_idempotent)
async def restore_learned_state(
    *,
    actor: OperatorActor,
    services: ServicesParameter,
    device: DeviceId,
    core: LearningCore,
    wanted: RestoreRequest,
) -> LearnedOrderModel:
    """Have another device, or this one, take what this one learned; it does so when it asks, and says how it went."""
    return _order_model(await services.learned_states.restore(actor, device, core=core, to=wanted.to))


@router.post("/devices/{device}/learned/{core}/reset", status_code=status.HTTP_202_ACCEPTED, dependencies=_idempotent)
async def reset_learned_state(
    *, actor: OperatorActor, services: ServicesParameter, device: DeviceId, core: LearningCore, why: Reason
) -> LearnedOrderModel:
    """Have a device forget what a core learned, and learn anew."""
    return _order_model(await services.learned_states.reset(actor, device, core=core, reason=why.reason))


def learned_state_routes(learned_states: LearnedStates) -> list[Route]:
    """Return the device API's routes, see `protocol.learned_backup`."""

    async def learned(request: Request) -> Response:
        device_id = peer_of(request.scope).device_id
        if request.method == "GET":
            return document_response(await learned_states.orders(device_id))
        body = await read_body(request, max_bytes=MAX_UPLOAD_BYTES)
        await learned_states.take(device_id, parse_document(body, LearnedUpload))
        return Response(status_code=204)

    async def outcome(request: Request) -> Response:
        body = await read_body(request, max_bytes=MAX_UPLOAD_BYTES)
        await learned_states.settle(peer_of(request.scope).device_id, parse_document(body, LearnedOutcome))
        return Response(status_code=204)

    return [
        Route(f"{DEVICE_BASE_PATH}/learned", learned, methods=["GET", "POST"]),
        Route(f"{DEVICE_BASE_PATH}/learned/outcome", outcome, methods=["POST"]),
    ]


def _position(cursor: str | None) -> tuple[str, str] | None:
    if cursor is None:
        return None
    device_id, space, core = cursor.partition(" ")
    if not space or "\0" in cursor:
        raise CursorError("cursor: expected one of this list, found another")
    return device_id, core


def _state_model(backup: LearnedBackup) -> LearnedStateModel:
    return LearnedStateModel(
        device_id=backup.device_id,
        core=backup.core,
        component_id=backup.component_id,
        layout_sha256=backup.layout_sha256,
        template_sha256=backup.template_sha256,
        windows=backup.windows,
        prototypes=backup.prototypes,
        sha256=backup.sha256,
        length=len(backup.content),
        received_at=backup.received_at,
    )


def _order_model(order: StoredOrder) -> LearnedOrderModel:
    return LearnedOrderModel(
        id=order.order_id,
        device_id=order.device_id,
        core=order.core,
        kind=order.kind,
        from_device=order.source_device_id,
        sha256=order.sha256,
        ordered_by=order.ordered_by,
        ordered_at=order.ordered_at,
        state=order.state,
        detail=order.detail,
        settled_at=order.settled_at,
    )
