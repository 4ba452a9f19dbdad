"""Health of models: what devices said last and their own past, and which devices a rollout's gates have counted."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel

from protocol.health import HealthReport
from service.api.auth import ViewerActor
from service.api.devices import DeviceId
from service.api.paging import Page, Paging
from service.api.rollouts import RolloutId
from service.api.services import ServicesParameter
from service.application.health_repository import Counted
from service.domain.errors import CursorError
from service.domain.gates.arms import Arm
from service.domain.model_health import CoreHealth, Past

router = APIRouter(tags=["model health"])
GateFilter = Annotated[
    str | None, Query(pattern=r"^[a-z][a-z0-9-]{0,31}$", description="Only of this gate of the plan.")
]


class PastModel(BaseModel):
    """A core's own past under one model: a mean over its windows, the last two days' weighing most."""

    windows: int
    confidence: float
    latency_ms: float
    arena_bytes: float
    classes: Mapping[str, float]


class CoreHealthModel(BaseModel):
    """The last window that a device told of a core's model, and the core's own past; all of it is the device's word.

    `past` is of the model of the last window, `before` of the model before it; a new window is compared with
    `reference`, the first of them that is long enough.
    """

    last: HealthReport
    received_at: datetime
    past: PastModel
    before: PastModel | None
    reference: PastModel | None


class DeviceHealthModel(BaseModel):
    """Health of a device's models, by core."""

    device_id: str
    cores: list[CoreHealthModel]


class CountedModel(BaseModel):
    """A device that a gate has counted: `what` is the event, or the metric of a mean."""

    device_id: str
    gate: str
    arm: Arm
    what: str
    detail: str
    at: datetime


@router.get("/devices/{device}/health")
async def show_device_health(_actor: ViewerActor, services: ServicesParameter, device: DeviceId) -> DeviceHealthModel:
    """Show what a device said last of its models, and their own past."""
    found = await services.model_health.of_device(device)
    return DeviceHealthModel(device_id=found[0].device_id, cores=[_core_model(each) for each in found])


@router.get("/rollouts/{rollout_id}/counted")
async def list_counted_devices(
    _actor: ViewerActor, services: ServicesParameter, rollout_id: RolloutId, paging: Paging, gate: GateFilter = None
) -> Page[CountedModel]:
    """List the devices that gates of a rollout have counted, by gate and device."""
    found = await services.model_health.counted(
        rollout_id, after=_position(paging.after), limit=paging.fetch, gate=gate
    )
    return paging.page(found, key=lambda counted: f"{counted.gate} {counted.device_id}", model=counted_model)


def _position(after: str | None) -> tuple[str, str] | None:
    if after is None:
        return None
    gate, _, device_id = after.partition(" ")
    if not device_id:
        raise CursorError("cursor: expected one that a page gave out, found another")
    return gate, device_id


def _core_model(health: CoreHealth) -> CoreHealthModel:
    return CoreHealthModel(
        last=health.last,
        received_at=health.received_at,
        past=_past_model(health.past),
        before=None if health.before is None else _past_model(health.before),
        reference=None if health.reference is None else _past_model(health.reference),
    )


def _past_model(past: Past) -> PastModel:
    return PastModel(
        windows=past.windows,
        confidence=past.confidence,
        latency_ms=past.latency_ms,
        arena_bytes=past.arena_bytes,
        classes=past.classes,
    )


def counted_model(counted: Counted) -> CountedModel:
    """Return a counted device as the wire has it."""
    return CountedModel(
        device_id=counted.device_id,
        gate=counted.gate,
        arm=counted.arm,
        what=counted.what,
        detail=counted.detail,
        at=counted.at,
    )
