"""HTTPS client of the operator API: credential, problem details, paging and server-sent events.

The credential is `credential.json` in the operator's folder: {"url", "ca", "token"}. `ca` is the path of the X.509
root, relative to the file's folder; nothing else is trusted. TINYFLEET_URL takes the place of `url`.
"""

import json
import os
import ssl
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx

from service.cli.errors import AnswerError, CredentialError, RefusedError, ServiceUnreachableError

API_BASE = "/api/v1"
TIMEOUT_SECONDS = 30.0
RETRY_DELAYS_SECONDS = (0.1, 0.2, 0.4, 0.8, 1.6)  # a service that restarts is back within these
PAGE_ITEMS = 1000
CREDENTIAL_FILE = "credential.json"

JsonObject = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Credential:
    """An operator's login.

    Attributes:
        url: the service's operator address.
        ca: PEM file of the X.509 root that the service's certificate chains to.
        token: bearer token; never printed.
    """

    url: str
    ca: Path
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One server-sent event."""

    kind: str
    data: str
    event_id: str


def load_credential(operator_dir: Path) -> Credential:
    """Read the operator's login.

    Raises:
        CredentialError: the file is missing, readable by others, or not of the expected form.
    """
    path = operator_dir / CREDENTIAL_FILE
    try:
        mode = path.stat().st_mode & 0o777
        content = json.loads(path.read_bytes())
        credential = Credential(content["url"], operator_dir / content["ca"], content["token"])
    except FileNotFoundError as error:
        raise CredentialError(f"{path}: expected a login made by `tinyfleet init`, found no such file") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CredentialError(f"{path}: expected url, ca and token in JSON, found {type(error).__name__}") from error
    if mode & 0o077:
        raise CredentialError(f"{path}: expected a file that only its owner can read (0600), found {mode:04o}")
    url = os.environ.get("TINYFLEET_URL", credential.url)
    return Credential(url.rstrip("/"), credential.ca, credential.token)


class ApiClient:
    """The operator API, by path below /api/v1; every call raises `RefusedError` for a problem document."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    @classmethod
    def open(cls, credential: Credential) -> Self:
        """Make a client that trusts the credential's root alone.

        Raises:
            CredentialError: the root does not load.
        """
        try:
            context = ssl.create_default_context(cafile=credential.ca)
        except (OSError, ssl.SSLError) as error:
            raise CredentialError(f"{credential.ca}: expected a PEM certificate, found {error}") from error
        return cls(
            httpx.Client(
                base_url=credential.url,
                headers={"Authorization": f"Bearer {credential.token}"},
                verify=context,
                timeout=TIMEOUT_SECONDS,
                trust_env=False,
            )
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: str | float | None) -> JsonObject:
        """Read one resource; a query value of None is left out."""
        return _object(self._send("GET", path, params=_given(query)))

    def get_list(self, path: str) -> list[JsonObject]:
        """Read a list that comes whole."""
        return _objects(self._send("GET", path))

    def items(self, path: str, **query: str | float | None) -> Iterator[JsonObject]:
        """Read a list, page after page."""
        cursor: str | None = None
        while True:
            page = self.get(path, **{"limit": PAGE_ITEMS, **query, "cursor": cursor})
            yield from page["items"]
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    def messages(self, path: str, after: int, **query: str | float | None) -> Iterator[JsonObject]:
        """Read stored messages with ids above `after`, oldest first, to the latest."""
        while True:
            page = self.get(path, **{"limit": PAGE_ITEMS, **query, "after": after})
            yield from page["items"]
            if len(page["items"]) < PAGE_ITEMS:
                return
            after = page["next_after"]

    def post(self, path: str, body: object = None) -> JsonObject:
        """Create or do; an idempotency key makes a repeated request harmless."""
        return _object(self._send("POST", path, json=body, headers={"Idempotency-Key": str(uuid.uuid4())}))

    def patch(self, path: str, body: object) -> JsonObject:
        """Change the resource as it is now: its ETag goes along, so that no other change is lost."""
        headers = {"If-Match": self._send("GET", path).headers.get("ETag", "*")}
        return _object(self._send("PATCH", path, json=body, headers=headers))

    def delete(self, path: str) -> None:
        """Remove a resource."""
        self._send("DELETE", path)

    def put(self, path: str, body: object) -> None:
        """Store a resource."""
        self._send("PUT", path, json=body)

    def put_bytes(self, path: str, content: bytes) -> None:
        """Store raw bytes."""
        self._send("PUT", path, content=content, headers={"Content-Type": "application/octet-stream"})

    def get_bytes(self, path: str) -> bytes:
        """Read raw bytes."""
        return self._send("GET", path).content

    def has(self, path: str) -> bool:
        """Whether a resource is there, by HEAD."""
        try:
            self._send("HEAD", path)
        except RefusedError as refused:
            if refused.status == httpx.codes.NOT_FOUND:
                return False
            raise
        return True

    def events(self, path: str, **query: str | float | None) -> Iterator[StreamEvent]:
        """Follow server-sent events until the service ends the stream."""
        headers = {"Accept": "text/event-stream"}
        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=None)
        with (
            _translated(str(self._http.base_url)),
            self._http.stream("GET", API_BASE + path, params=_given(query), headers=headers, timeout=timeout) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise _refusal(answer)
            yield from parse_events(answer.iter_lines())

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:  # noqa: ANN401 - as httpx has them
        with _translated(str(self._http.base_url)):
            answer = self._connected(method, path, options)
        if answer.is_error:
            raise _refusal(answer)
        return answer

    def _connected(self, method: str, path: str, options: Mapping[str, Any]) -> httpx.Response:
        """Repeat while nobody listens: a request that found no connection has had no effect."""
        for delay_seconds in RETRY_DELAYS_SECONDS:
            try:
                return self._http.request(method, API_BASE + path, **options)
            except httpx.ConnectError as error:
                if isinstance(_root_cause(error), ssl.SSLError):
                    raise
                time.sleep(delay_seconds)
        return self._http.request(method, API_BASE + path, **options)


@contextmanager
def connect(operator_dir: Path) -> Iterator[ApiClient]:
    """Open a client with the login of an operator's folder.

    Raises:
        CredentialError: no usable login.
    """
    client = ApiClient.open(load_credential(operator_dir))
    try:
        yield client
    finally:
        client.close()


def parse_events(lines: Iterable[str]) -> Iterator[StreamEvent]:
    """Parse the lines of a text/event-stream (WHATWG HTML §9.2.6); comments are skipped."""
    kind, data, event_id = "message", list[str](), ""
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield StreamEvent(kind, "\n".join(data), event_id)
            kind, data = "message", []
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            event_id = value


def _given(query: Mapping[str, str | float | None]) -> dict[str, str | float]:
    return {name: value for name, value in query.items() if value is not None}


def _object(answer: httpx.Response) -> JsonObject:
    if not answer.content:
        return {}
    try:
        value = answer.json()
    except ValueError as error:
        raise AnswerError(f"{answer.request.url.path}: expected JSON, found {answer.content[:40]!r}") from error
    if not isinstance(value, dict):
        raise AnswerError(f"{answer.request.url.path}: expected a JSON object, found {type(value).__name__}")
    return value


def _objects(answer: httpx.Response) -> list[JsonObject]:
    value = answer.json()
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise AnswerError(f"{answer.request.url.path}: expected a JSON list of objects, found something else")
    return value


def _refusal(answer: httpx.Response) -> RefusedError:
    problem = _object(answer) if "json" in answer.headers.get("Content-Type", "") else {}
    known = {"type", "title", "status", "detail", "instance"}
    return RefusedError(
        status=answer.status_code,
        title=str(problem.get("title", answer.reason_phrase)),
        detail=str(problem.get("detail", "")),
        members={name: value for name, value in problem.items() if name not in known},
    )


def _root_cause(error: BaseException) -> BaseException:
    cause = error.__cause__ or error.__context__
    return _root_cause(cause) if cause else error


@contextmanager
def _translated(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        found = str(error) or type(error).__name__
        raise ServiceUnreachableError(f"{url}: expected the service to answer, found: {found}") from error
    except httpx.InvalidURL as error:
        raise CredentialError(f"url: expected https://host:port, found {url!r}") from error
