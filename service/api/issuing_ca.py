"""The issuing CA's generations: an operator leads it from one to the next while devices stay connected."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from pki.authority import chain_pem
from pki.rollover import GenerationState
from service.api.auth import AdminActor, ViewerActor
from service.api.services import ServicesParameter
from service.application.issuing_ca import IssuingCaStatus

router = APIRouter(prefix="/pki/issuing-cas", tags=["certificates"])

MAX_PEM_CHARACTERS = 16 * 1024
GenerationNumber = Annotated[int, Path(ge=1, le=9999, description="Number of the generation.")]


class GenerationModel(BaseModel):
    """A generation; certificates are PEM, `cross_certificates` are its key signed by its neighbours.

    `certificates_issued` and `last_not_after` are of devices' certificates, from the issuance log: a generation can be
    retired once the latter has passed.
    """

    number: int
    state: GenerationState
    certificate: str | None
    cross_certificates: list[str]
    not_after: datetime | None
    certificates_issued: int
    last_not_after: datetime | None


class GenerationList(BaseModel):
    """Every generation by number."""

    items: list[GenerationModel]


class RequestedModel(BaseModel):
    """What the root signs for the next generation: the CSR, PEM."""

    number: int
    csr: str


class CertificateModel(BaseModel):
    """A certificate, PEM; `compromised` says that the key in force is, so that the new one does not vouch for it."""

    model_config = ConfigDict(extra="forbid")

    certificate: Annotated[str, Field(max_length=MAX_PEM_CHARACTERS)]
    compromised: bool = False


class RetirementModel(BaseModel):
    """How a generation is retired; a compromised one although certificates that it issued are valid."""

    model_config = ConfigDict(extra="forbid")

    compromised: bool = False


@router.get("")
async def list_issuing_cas(_actor: ViewerActor, services: ServicesParameter) -> GenerationList:
    """List the generations."""
    return GenerationList(items=[_model(status) for status in await services.issuing_cas.statuses()])


@router.post("", status_code=201)
async def request_issuing_ca(actor: AdminActor, services: ServicesParameter) -> RequestedModel:
    """Make the next generation's key; if one is requested already, return its CSR again."""
    number, csr = await services.issuing_cas.request(actor)
    return RequestedModel(number=number, csr=csr.decode())


@router.put("/{number}/certificate", status_code=204)
async def accept_issuing_ca(
    actor: AdminActor, services: ServicesParameter, number: GenerationNumber, body: CertificateModel
) -> None:
    """Take the certificate that the root signed, and trust the generation."""
    await services.issuing_cas.accept(actor, number, body.certificate.encode(), compromised=body.compromised)


@router.post("/{number}/activate", status_code=204)
async def activate_issuing_ca(actor: AdminActor, services: ServicesParameter, number: GenerationNumber) -> None:
    """Issue by a trusted generation."""
    await services.issuing_cas.activate(actor, number)


@router.post("/{number}/retire", status_code=204)
async def retire_issuing_ca(
    actor: AdminActor, services: ServicesParameter, number: GenerationNumber, body: RetirementModel | None = None
) -> None:
    """Trust a superseded generation no longer; refused while certificates that it issued are valid.

    A compromised one is not waited for: connections by its certificates end, and their devices attest again.
    """
    await services.issuing_cas.retire(actor, number, compromised=body is not None and body.compromised)


def _model(status: IssuingCaStatus) -> GenerationModel:
    generation, use = status.generation, status.use
    certificate = generation.certificate
    return GenerationModel(
        number=generation.number,
        state=generation.state,
        certificate=None if certificate is None else chain_pem([certificate]).decode(),
        cross_certificates=[chain_pem([cross]).decode() for cross in generation.crosses],
        not_after=None if certificate is None else certificate.not_valid_after_utc,
        certificates_issued=0 if use is None else use.certificates,
        last_not_after=None if use is None else use.not_after,
    )
