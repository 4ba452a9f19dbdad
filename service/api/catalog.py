"""The catalog itself: its authorities, proof that the service holds their key, and devices that leave for another."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response, status
from pydantic import BaseModel, Field

from pki.manufacturers import Manufacturer
from protocol.model import Guid, Sha256Hex
from service.api.approvals import PENDING_RESPONSE, answer_to
from service.api.auth import AdminActor, ViewerActor
from service.api.devices import DeviceId
from service.api.idempotency import IdempotentRoute, idempotency_header
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.application.custody import Departure, Recipient

router = APIRouter(tags=["catalog"], route_class=IdempotentRoute)
_idempotent = [Depends(idempotency_header)]


class PossessionNonce(RequestModel):
    """What the caller wants certified: printable ASCII without spaces, as it fits a common name."""

    nonce: Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]


class PossessionProofModel(BaseModel):
    """A certificate whose common name is the nonce, and the chain of the authority that issued it; PEM."""

    certificate: str
    chain: str
    serial: str
    not_after: datetime


class AuthoritiesModel(BaseModel):
    """The chain of each authority that issues operational certificates, PEM, the one in use first."""

    chains: list[str]


class ManufacturerModel(BaseModel):
    """A manufacturer whose devices the catalog takes; `fingerprint` is the SHA-256 of his root."""

    name: str
    fingerprint: str
    ocsp_url: str | None
    crl_url: str | None


class ManufacturersModel(BaseModel):
    """Every manufacturer whose devices the catalog takes besides its own; there are few."""

    items: list[ManufacturerModel]


class ReleaseRequest(RequestModel):
    """Which catalog gets the device, as its handover says, and why."""

    catalog_id: Guid
    catalog_name: Annotated[str, Field(min_length=1, max_length=50, pattern=r"^[^\x00-\x1f\x7f]+$")]
    fingerprint: Sha256Hex
    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")]


class DepartureModel(BaseModel):
    """What the signed release of a device must say."""

    device_id: str
    voucher_sequence: int
    released_at: datetime
    catalog_id: str
    catalog_name: str
    fingerprint: str


@router.post("/catalog/proof-of-possession", dependencies=_idempotent)
async def prove_possession(
    actor: AdminActor, services: ServicesParameter, wanted: PossessionNonce
) -> PossessionProofModel:
    """Certify a nonce with the issuing key, as proof that this service holds it."""
    proof = await services.possession.prove(actor, wanted.nonce)
    return PossessionProofModel(
        certificate=proof.certificate_pem,
        chain=proof.chain_pem,
        serial=proof.facts.serial,
        not_after=proof.not_after,
    )


@router.get("/catalog/authorities")
async def list_authorities(_actor: ViewerActor, services: ServicesParameter) -> AuthoritiesModel:
    """Show the authorities that issue operational certificates, each with its chain up to the root."""
    return AuthoritiesModel(chains=list(services.possession.authority_chains()))


@router.get("/catalog/manufacturers")
async def list_manufacturers(_actor: ViewerActor, services: ServicesParameter) -> ManufacturersModel:
    """List the manufacturers whose devices the catalog takes besides its own."""
    return ManufacturersModel(items=[_manufacturer(trusted) for trusted in services.manufacturers])


@router.post(
    "/devices/{device}/release",
    status_code=status.HTTP_204_NO_CONTENT,
    dependencies=_idempotent,
    responses=PENDING_RESPONSE,
)
async def release_device(
    actor: AdminActor, services: ServicesParameter, device: DeviceId, wanted: ReleaseRequest
) -> Response:
    """Let a device go to another catalog: it is shut out at once, and for good."""
    recipient = Recipient(wanted.catalog_id, wanted.catalog_name, wanted.fingerprint)
    return answer_to(await services.custody.release(actor, device, recipient, reason=wanted.reason))


@router.get("/devices/{device}/release")
async def show_release(_actor: ViewerActor, services: ServicesParameter, device: DeviceId) -> DepartureModel:
    """Show what the signed release of a device must say."""
    return _departure(await services.custody.departure(device))


def _manufacturer(trusted: Manufacturer) -> ManufacturerModel:
    return ManufacturerModel(
        name=trusted.name, fingerprint=trusted.fingerprint, ocsp_url=trusted.ocsp_url, crl_url=trusted.crl_url
    )


def _departure(departure: Departure) -> DepartureModel:
    return DepartureModel(
        device_id=departure.device_id,
        voucher_sequence=departure.voucher_sequence,
        released_at=departure.released_at,
        catalog_id=departure.recipient.catalog_id,
        catalog_name=departure.recipient.name,
        fingerprint=departure.recipient.fingerprint,
    )
