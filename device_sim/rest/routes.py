"""Which request goes to which handler, and what it may carry.

A path is taken as it stands: nothing is decoded, nothing leads up, and a segment is a parameter or is known. A query
belongs to no route.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from device_sim.rest.errors import Code, RequestRefusedError
from protocol.document import Document, DocumentError, DocumentT, parse_document
from protocol.geometry import KIB

JSON_TYPE = "application/json"
OCTETS_TYPE = "application/octet-stream"
MAX_JSON_BYTES = 64 * KIB
PARAMETER = "*"


class RequestDocument(Document):
    """A JSON body; its fields are in camelCase on the wire."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel)


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler is given.

    Attributes:
        parameters: the path's, in its order; unverified.
        body: of the length that the route allows; unverified.
    """

    parameters: tuple[str, ...] = ()
    body: bytes = b""

    @property
    def parameter(self) -> str:
        """The only parameter of the path."""
        return self.parameters[0]

    def document(self, document_type: type[DocumentT], *, code: Code = Code.INVALID_PARAMETER) -> DocumentT:
        """Return the body as a document.

        Raises:
            RequestRefusedError: it is none, with the code.
        """
        try:
            return parse_document(self.body, document_type, max_bytes=MAX_JSON_BYTES)
        except DocumentError as error:
            raise RequestRefusedError(code, str(error)) from error


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back.

    Attributes:
        body: all of it.
        content_type: of the body.
        status: HTTP status.
    """

    body: bytes = b"{}"
    content_type: str = JSON_TYPE
    status: HTTPStatus = HTTPStatus.OK


def json_answer(content: Mapping[str, object], *, status: HTTPStatus = HTTPStatus.OK) -> Answer:
    """Return a JSON object as an answer."""
    return Answer(json.dumps(content).encode(), status=status)


def refusal_answer(error: RequestRefusedError) -> Answer:
    """Return what the client is told of a refusal: its code and nothing else."""
    return json_answer({"error": int(error.code)}, status=error.status)


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    Attributes:
        method: such as GET.
        path: without the leading slash; a segment `*` is a parameter.
        handle: answers; may raise RequestRefusedError.
        content_type: of the body that it takes; None: it takes none and overlooks what comes.
        max_body_bytes: most that it takes.
    """

    method: str
    path: str
    handle: Callable[[Request], Answer]
    content_type: str | None = None
    max_body_bytes: int = MAX_JSON_BYTES

    def parameters(self, segments: Sequence[str]) -> tuple[str, ...] | None:
        """Return a path's parameters, or None if it is another path."""
        own = self.path.split("/")
        if len(own) != len(segments) or any(a not in (PARAMETER, b) for a, b in zip(own, segments, strict=True)):
            return None
        return tuple(b for a, b in zip(own, segments, strict=True) if a == PARAMETER)


@dataclass(frozen=True, slots=True)
class Router:
    """Every route of the interface."""

    routes: tuple[Route, ...]

    def find(self, method: str, target: str) -> tuple[Route, tuple[str, ...]]:
        """Return the route of a request and the parameters of its path.

        Args:
            method: of the request.
            target: the request target, with its leading slash.

        Raises:
            RequestRefusedError: no such path, or no such method there.
        """
        segments = target.removeprefix("/").split("/")
        there = [(route, found) for route in self.routes if (found := route.parameters(segments)) is not None]
        if not there or "" in segments:
            raise RequestRefusedError(Code.INVALID_URI, f"path: expected one of the interface, found {target[:80]!r}")
        for route, found in there:
            if route.method == method:
                return route, found
        methods = ", ".join(route.method for route, _ in there)
        raise RequestRefusedError(
            Code.INVALID_URI,
            f"method: expected one of {methods}, found {method[:20]}",
            status=HTTPStatus.METHOD_NOT_ALLOWED,
        )


def require_type(route: Route, content_type: str | None) -> None:
    """Check the media type of a body.

    Raises:
        RequestRefusedError: it is not the route's.
    """
    found = (content_type or "").partition(";")[0].strip().lower()
    if route.content_type is not None and found != route.content_type:
        raise RequestRefusedError(
            Code.INVALID_PARAMETER,
            f"media type: expected {route.content_type}, found {found[:80] or 'none'}",
            status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        )
