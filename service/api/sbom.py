"""What is inside images, which devices run it, and what vulnerabilities mean to it."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel

from protocol.geometry import Slot
from service.api.auth import ViewerActor
from service.api.paging import Page, Paging
from service.api.services import ServicesParameter
from service.application.document_repository import ComponentQuery, RunningDevice, StoredStatement
from service.application.documents import FoundComponent, FoundDevices, device_key

router = APIRouter(prefix="/sbom", tags=["sbom"])


class ComponentModel(BaseModel):
    """A component in an image.

    Attributes:
        purl: empty where the bill of materials gives none.
        image_id: None while the image itself is not in force.
        devices: how many run the image, by slot; one that runs it in two slots is in both.
    """

    type: str
    name: str
    version: str
    purl: str
    image_sha256: str
    image_id: str | None
    image_name: str | None
    devices: dict[Slot, int]


class RunningDeviceModel(BaseModel):
    """A device that runs an image with the component."""

    device_id: str
    slot: Slot
    image_sha256: str
    image_name: str | None


class StatementModel(BaseModel):
    """What a vulnerability means to a component of a release.

    Attributes:
        sha256: of the document that says it.
    """

    release: str
    sha256: str
    vulnerability: str
    name: str
    version: str
    purl: str
    state: str
    justification: str
    detail: str
    made_at: datetime


async def component_query(
    name: Annotated[str | None, Query(max_length=200, description="In any case of letters.")] = None,
    version: Annotated[str | None, Query(max_length=100)] = None,
    purl: Annotated[str | None, Query(max_length=300, description="Package URL, with or without version.")] = None,
) -> ComponentQuery:
    """Read which component is looked for."""
    return ComponentQuery.parse(name=name, version=version, purl=purl)


WantedComponent = Annotated[ComponentQuery, Depends(component_query)]


@router.get("/components")
async def list_components(
    _actor: ViewerActor, services: ServicesParameter, paging: Paging, wanted: WantedComponent
) -> Page[ComponentModel]:
    """List images with a component, and how many devices run each."""
    found = await services.documents.components(wanted, after_number=paging.after_number or 0, limit=paging.fetch)
    return paging.page(found, key=lambda each: each.component.number, model=_component)


@router.get("/devices")
async def list_devices_with_component(
    _actor: ViewerActor, services: ServicesParameter, paging: Paging, wanted: WantedComponent
) -> Page[RunningDeviceModel]:
    """List devices that run a component now, by slot and image."""
    found = await services.documents.devices(wanted, after=paging.after, limit=paging.fetch)
    return paging.page(found.devices, key=device_key, model=lambda device: _device(device, found))


@router.get("/statements")
async def list_statements(
    _actor: ViewerActor,
    services: ServicesParameter,
    paging: Paging,
    vulnerability: Annotated[str | None, Query(max_length=64, description="Such as CVE-2026-0001.")] = None,
    release: Annotated[str | None, Query(max_length=64, description="Name of a release.")] = None,
) -> Page[StatementModel]:
    """List what vulnerabilities mean, oldest first; the newer of two statements about the same counts."""
    found = await services.documents.statements(
        vulnerability=vulnerability, release=release, after_number=paging.after_number or 0, limit=paging.fetch
    )
    return paging.page(found, key=lambda statement: statement.number, model=_statement)


def _component(found: FoundComponent) -> ComponentModel:
    component, image = found.component, found.image
    return ComponentModel(
        type=component.type,
        name=component.name,
        version=component.version,
        purl=component.purl,
        image_sha256=component.image_sha256,
        image_id=None if image is None else image.custom.image_id,
        image_name=None if image is None else image.custom.name,
        devices=dict(found.devices),
    )


def _device(device: RunningDevice, found: FoundDevices) -> RunningDeviceModel:
    image = found.images.get(device.image_sha256)
    return RunningDeviceModel(
        device_id=device.device_id,
        slot=device.slot,
        image_sha256=device.image_sha256,
        image_name=None if image is None else image.custom.name,
    )


def _statement(statement: StoredStatement) -> StatementModel:
    return StatementModel(
        release=statement.release,
        sha256=statement.sha256,
        vulnerability=statement.vulnerability,
        name=statement.name,
        version=statement.version,
        purl=statement.purl,
        state=statement.state,
        justification=statement.justification,
        detail=statement.detail,
        made_at=statement.made_at,
    )
