"""Revocation: operators publish lists; everybody may read them and ask about one certificate.

What is public needs no credential, by RFC 5280 §8 and RFC 6960: lists and answers are signed. They are served over
HTTPS like the rest; where clients want them over plain HTTP, a reverse proxy passes /pki/ on.
"""

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Header, Path, Request, Response
from pydantic import BaseModel

from pki.ocsp import MAX_REQUEST_BYTES, OcspAnswer
from pki.revocation import MAX_CRL_BYTES
from service.api.auth import AdminActor, ViewerActor
from service.api.device_gate import read_body
from service.api.services import Services, ServicesParameter
from service.application.request_rate import PublicRateError
from service.application.revocation import CrlState, CrlStatus

router = APIRouter(prefix="/pki/crls", tags=["revocation"])
public_router = APIRouter(prefix="/pki", tags=["revocation"])  # outside /api/v1: where certificates point

CRL_MEDIA_TYPE = "application/pkix-crl"
OCSP_MEDIA_TYPE = "application/ocsp-response"
# A cache may be as old as this, however long the list is valid: a revocation shall be seen soon.
CACHE_SECONDS = 60
_BYTES = {"type": "string", "format": "binary"}
_CRL_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {CRL_MEDIA_TYPE: {}}, "description": "DER certificate revocation list."},
    304: {"description": "The caller's copy is the one in force."},
}
_OCSP_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {"content": {OCSP_MEDIA_TYPE: {}}, "description": "DER OCSPResponse, also for what cannot be answered."}
}

_RAW_BODY = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": _BYTES}}}}

IssuerKeyId = Annotated[
    str, Path(pattern=r"^[0-9a-f]{2,64}$", description="Subject key identifier of the authority, hex.")
]


class CrlModel(BaseModel):
    """An authority and its revocation list; without a list, number and times are null."""

    issuer: str
    issuer_key_id: str
    state: CrlState
    number: int | None
    revoked: int
    this_update: datetime | None
    next_update: datetime | None
    path: str


class CrlList(BaseModel):
    """Every authority."""

    items: list[CrlModel]
    next_cursor: str | None = None


@router.get("")
async def list_crls(_actor: ViewerActor, services: ServicesParameter) -> CrlList:
    """List the authorities and their revocation lists."""
    return CrlList(items=[_model(status) for status in services.revocations.statuses()])


@router.get("/{issuer}", response_class=Response, responses=_CRL_FILE)
async def fetch_crl(_actor: ViewerActor, services: ServicesParameter, issuer: IssuerKeyId) -> Response:
    """Fetch an authority's revocation list, to sign the next one."""
    return Response(services.revocations.crl(issuer).der, media_type=CRL_MEDIA_TYPE)


@router.put("/{issuer}", openapi_extra=_RAW_BODY)
async def publish_crl(
    actor: AdminActor, services: ServicesParameter, request: Request, issuer: IssuerKeyId
) -> CrlModel:
    """Publish an authority's next revocation list; revoked devices are shut out at once."""
    unverified_crl = await read_body(request, max_bytes=MAX_CRL_BYTES)
    return _model(await services.revocations.publish(actor, issuer, unverified_crl))


@public_router.get("/crl/{issuer}.crl", response_class=Response, responses=_CRL_FILE)
async def show_crl(
    services: ServicesParameter,
    issuer: IssuerKeyId,
    if_none_match: Annotated[str | None, Header(max_length=200)] = None,
) -> Response:
    """Show the revocation list of an offline authority or of the LDevID issuer; needs no credential."""
    services.public_rate.admit()
    offline = services.revocations.knows(issuer)
    crl = services.revocations.crl(issuer) if offline else await services.issuer_lists.crl(issuer)
    headers = {"ETag": f'"{crl.number}"', "Cache-Control": f"public, max-age={CACHE_SECONDS}"}
    if if_none_match == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(crl.der, media_type=CRL_MEDIA_TYPE, headers=headers)


@public_router.post("/ocsp", response_class=Response, responses=_OCSP_ANSWER, openapi_extra=_RAW_BODY)
async def ask_ocsp(services: ServicesParameter, request: Request) -> Response:
    """Answer an OCSP request, of whatever content type; needs no credential."""
    try:
        services.public_rate.admit()
    except PublicRateError as error:
        return _try_later(services, error)
    unverified_request = await read_body(request, max_bytes=MAX_REQUEST_BYTES)
    return _answer(await services.revocations.answer(unverified_request))


@public_router.get("/ocsp/{encoded:path}", response_class=Response, responses=_OCSP_ANSWER)
async def ask_ocsp_by_path(services: ServicesParameter, encoded: str) -> Response:
    """Answer an OCSP request that is in the path, base64 (RFC 6960 appendix A.1); needs no credential."""
    try:
        services.public_rate.admit()
    except PublicRateError as error:
        return _try_later(services, error)
    return _answer(await services.revocations.answer(_decoded(encoded)), may_be_cached=True)


def _try_later(services: Services, error: PublicRateError) -> Response:
    response = _answer(services.revocations.try_later())
    response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(unquote_to_bytes(encoded), validate=True)
    except binascii.Error:
        return b""  # answered like every request that is none


def _answer(answer: OcspAnswer, *, may_be_cached: bool = False) -> Response:
    fresh = may_be_cached and answer.fresh_until is not None
    headers = {"Cache-Control": f"public, max-age={CACHE_SECONDS}" if fresh else "no-store"}
    return Response(answer.der, media_type=OCSP_MEDIA_TYPE, headers=headers)


def _model(status: CrlStatus) -> CrlModel:
    crl = status.crl
    return CrlModel(
        issuer=status.issuer,
        issuer_key_id=status.issuer_key_id,
        state=status.state,
        number=None if crl is None else crl.number,
        revoked=0 if crl is None else len(crl.revoked),
        this_update=None if crl is None else crl.this_update,
        next_update=None if crl is None else crl.next_update,
        path=f"/pki/crl/{status.issuer_key_id}.crl",
    )
