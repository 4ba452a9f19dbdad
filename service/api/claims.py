"""Claiming devices by proof of identity."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response, status
from pydantic import Field

from protocol.attributes import Attributes
from protocol.messages import ClaimChallenge, ClaimProof
from protocol.voucher import Base64Bytes
from service.api.auth import OperatorActor
from service.api.conditions import set_etag
from service.api.devices import DeviceId, DeviceModel, device_model
from service.api.idempotency import IdempotentRoute, idempotency_header
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.application.claims import ClaimTarget

router = APIRouter(tags=["claims"], route_class=IdempotentRoute)
_idempotent = [Depends(idempotency_header)]


class NewDevice(RequestModel):
    """A device to claim, where it goes (product and device group by id or name), and its first attributes."""

    product: Annotated[str, Field(min_length=1, max_length=60)]
    group: Annotated[str, Field(min_length=1, max_length=60)]
    proof: ClaimProof
    attributes: Attributes = Field(default_factory=dict)


class VoucherCopy(RequestModel):
    """The voucher that a device was given: a DSSE envelope, base64."""

    voucher: Base64Bytes


@router.post("/claims/challenge", dependencies=_idempotent)
async def make_claim_challenge(actor: OperatorActor, services: ServicesParameter) -> ClaimChallenge:
    """Make a challenge that each device can answer once."""
    return await services.claims.challenge(actor)


@router.post("/devices", status_code=status.HTTP_201_CREATED, dependencies=_idempotent)
async def claim_device(
    actor: OperatorActor, services: ServicesParameter, wanted: NewDevice, response: Response
) -> DeviceModel:
    """Claim a device by proof of its identity."""
    device = await services.claims.claim(
        actor, wanted.proof, ClaimTarget(wanted.product, wanted.group, wanted.attributes)
    )
    set_etag(response, device.version)
    return device_model(await services.devices.get(device.device_id))


@router.post("/devices/{device}/voucher", status_code=status.HTTP_204_NO_CONTENT, dependencies=_idempotent)
async def keep_voucher(actor: OperatorActor, services: ServicesParameter, device: DeviceId, copy: VoucherCopy) -> None:
    """Keep a copy of the voucher that a device was given."""
    await services.custody.keep_voucher(actor, device, copy.voucher)
