"""Errors as RFC 9457 problem details: one table maps the errors of every package to a status.

The problem type is `urn:tinyfleet:problem:{rule}`, the rule being the error's class name in kebab case, so that a
client can tell rules apart without reading the text.
"""

import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from pki.errors import KeyStoreError
from protocol.errors import MalformedError, ProtocolError, SignatureError
from service.application.est import EstMediaTypeError, EstRequestError, EstTooLongError
from service.application.messaging import CommandQueueFullError, MessagingError
from service.application.request_rate import RateError
from service.application.transparency import NotCoveredError
from service.domain.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    ServiceError,
    StaleError,
    TooManyRequestsError,
    UnauthenticatedError,
    UnavailableError,
)

PROBLEM_TYPE = "application/problem+json"
_TYPE_PREFIX = "urn:tinyfleet:problem:"
_log = structlog.get_logger()

# The first class that an error is an instance of decides.
STATUS: Mapping[type[Exception], HTTPStatus] = {
    EstRequestError: HTTPStatus.BAD_REQUEST,  # RFC 7030 §4.2.3
    EstTooLongError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    EstMediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    ForbiddenError: HTTPStatus.FORBIDDEN,
    NotFoundError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    StaleError: HTTPStatus.PRECONDITION_FAILED,
    InvalidError: HTTPStatus.UNPROCESSABLE_ENTITY,
    TooManyRequestsError: HTTPStatus.TOO_MANY_REQUESTS,
    CommandQueueFullError: HTTPStatus.TOO_MANY_REQUESTS,
    MessagingError: HTTPStatus.SERVICE_UNAVAILABLE,
    NotCoveredError: HTTPStatus.SERVICE_UNAVAILABLE,
    MalformedError: HTTPStatus.UNPROCESSABLE_ENTITY,
    SignatureError: HTTPStatus.FORBIDDEN,
    ProtocolError: HTTPStatus.CONFLICT,
    KeyStoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
}


class Problem(BaseModel):
    """A problem document; further members say more about some problems."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str


class ProblemResponse(JSONResponse):
    """A response with a problem document."""

    media_type = PROBLEM_TYPE


PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "The request was refused.",
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


def status_of(error: Exception) -> HTTPStatus:
    """Return the status of an error; one that is not in the table is the service's own fault."""
    found = (status for kind, status in STATUS.items() if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)


def is_refusal(error: Exception) -> bool:
    """Say whether an error means that the request was refused and changed nothing."""
    if isinstance(error, (RequestValidationError, HTTPException)):
        return True
    return status_of(error) is not HTTPStatus.INTERNAL_SERVER_ERROR


def problem(error: Exception, instance: str) -> ProblemResponse:
    """Return the problem document of an error.

    Args:
        error: what was raised; its message is shown unless it is the service's own fault, or tells what is behind it.
        instance: path of the request.
    """
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        return _response(status, "internal", "the service failed; its log says why", instance)
    if isinstance(error, KeyStoreError):  # its message says where keys are
        return _response(status, "key-store", "a key of the service cannot sign now; its log says why", instance)
    if isinstance(error, UnavailableError):  # its message says where things are
        return _response(status, _rule(error), "something behind the service fails; its log says what", instance)
    members = error.members if isinstance(error, ServiceError) else {}
    response = _response(status, _rule(error), str(error), instance, members=members)
    if isinstance(error, RateError | NotCoveredError):
        response.headers["Retry-After"] = str(error.retry_after_seconds)
    return response


def _rule(error: Exception) -> str:
    words = re.findall(r"[A-Z][a-z0-9]*", type(error).__name__.removesuffix("Error"))
    return "-".join(words).lower()


def _response(
    status: int,
    rule: str,
    detail: str,
    instance: str,
    *,
    members: Mapping[str, object] | None = None,
) -> ProblemResponse:
    content = {
        **(members or {}),
        "type": _TYPE_PREFIX + rule,
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "instance": instance,
    }
    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
    return ProblemResponse(content, status_code=int(status), headers=headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Make an app answer every error with a problem document."""
    for kind in (ServiceError, ProtocolError, MessagingError, KeyStoreError):
        app.add_exception_handler(kind, _handle_error)
    app.add_exception_handler(RequestValidationError, _handle_validation)
    app.add_exception_handler(HTTPException, _handle_http)
    app.add_exception_handler(Exception, _handle_failure)


async def _handle_error(request: Request, error: Exception) -> ProblemResponse:
    if isinstance(error, KeyStoreError | UnavailableError) or status_of(error) is HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("request_failed", path=request.url.path, exc_info=error)
    return problem(error, request.url.path)


async def _handle_validation(request: Request, error: Exception) -> ProblemResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    wrong = [
        {"where": ".".join(str(part) for part in found["loc"]), "rule": str(found["msg"])} for found in error.errors()
    ]
    first = wrong[0] if wrong else {"where": "request", "rule": "invalid"}
    detail = f"{first['where']}: {first['rule']}"
    return _response(
        HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request", detail, request.url.path, members={"errors": wrong}
    )


async def _handle_http(request: Request, error: Exception) -> ProblemResponse:
    if not isinstance(error, HTTPException):
        raise error
    answer = _response(error.status_code, "http", str(error.detail), request.url.path)
    answer.headers.update(error.headers or {})
    return answer


async def _handle_failure(request: Request, error: Exception) -> ProblemResponse:
    _log.error("request_failed", path=request.url.path, exc_info=error)
    return problem(error, request.url.path)
