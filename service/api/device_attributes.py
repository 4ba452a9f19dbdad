"""Attributes of devices: facts that operators give them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import BaseModel, Field

from protocol.attributes import AttributeChanges, AttributeRow, Attributes
from service.api.auth import OperatorActor, ViewerActor
from service.api.conditions import IfMatch, set_etag
from service.api.devices import DeviceId
from service.api.idempotency import IdempotentRoute, idempotency_header
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.application.device_attributes import DeviceWithAttributes

MAX_ROWS = 1000

router = APIRouter(tags=["devices"], route_class=IdempotentRoute)


class AttributesModel(BaseModel):
    """A device's attributes, by name."""

    device_id: str
    attributes: Attributes


class AttributeRows(RequestModel):
    """Rows of an import."""

    rows: Annotated[list[AttributeRow], Field(min_length=1, max_length=MAX_ROWS)]


class RefusedRowModel(BaseModel):
    """A row that changed nothing, by its place in the request, and why."""

    row: int
    device: str
    reason: str


class ImportedModel(BaseModel):
    """How many devices changed, how many were so before, and which rows were refused."""

    changed: int
    unchanged: int
    refused: list[RefusedRowModel]


@router.get("/devices/{device}/attributes")
async def show_device_attributes(
    _actor: ViewerActor, services: ServicesParameter, device: DeviceId, response: Response
) -> AttributesModel:
    """Show a device's attributes; the ETag is the device's."""
    return _answer(await services.attributes.of(device), response)


@router.put("/devices/{device}/attributes")
async def replace_device_attributes(
    *,
    actor: OperatorActor,
    services: ServicesParameter,
    device: DeviceId,
    wanted: Attributes,
    based_on: IfMatch,
    response: Response,
) -> AttributesModel:
    """Store attributes in the place of all that the device had."""
    return _answer(await services.attributes.replace(actor, device, wanted, based_on=based_on), response)


@router.patch("/devices/{device}/attributes")
async def change_device_attributes(
    *,
    actor: OperatorActor,
    services: ServicesParameter,
    device: DeviceId,
    wanted: AttributeChanges,
    based_on: IfMatch,
    response: Response,
) -> AttributesModel:
    """Set some attributes; null removes one, others stay."""
    return _answer(await services.attributes.change(actor, device, wanted, based_on=based_on), response)


@router.delete("/devices/{device}/attributes")
async def remove_device_attributes(
    *, actor: OperatorActor, services: ServicesParameter, device: DeviceId, based_on: IfMatch, response: Response
) -> AttributesModel:
    """Remove all attributes of a device."""
    return _answer(await services.attributes.replace(actor, device, {}, based_on=based_on), response)


@router.post("/device-attributes", dependencies=[Depends(idempotency_header)])
async def import_device_attributes(
    actor: OperatorActor, services: ServicesParameter, wanted: AttributeRows
) -> ImportedModel:
    """Set attributes of many devices in one transaction; rows of devices that there are not change nothing."""
    done = await services.attributes.take(actor, wanted.rows)
    refused = [RefusedRowModel(row=each.row, device=each.device, reason=each.reason) for each in done.refused]
    return ImportedModel(changed=done.changed, unchanged=done.unchanged, refused=refused)


def _answer(found: DeviceWithAttributes, response: Response) -> AttributesModel:
    set_etag(response, found.device.version)
    return AttributesModel(device_id=found.device.device_id, attributes=found.attributes)
