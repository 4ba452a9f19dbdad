"""The API client: login, problem details, pages, retries, server-sent events."""

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.cli.client import ApiClient, StreamEvent, load_credential, parse_events
from service.cli.errors import AnswerError, CredentialError, RefusedError, ServiceUnreachableError

Handler = Callable[[httpx.Request], httpx.Response]


def _client(handler: Handler) -> ApiClient:
    return ApiClient(httpx.Client(base_url="https://service", transport=httpx.MockTransport(handler)))


def _login(folder: Path, *, mode: int = 0o600, **changes: object) -> Path:
    content = {"url": "https://localhost:1/", "ca": "certificates/root.pem", "token": "secret"} | changes
    path = folder / "credential.json"
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    path.chmod(mode)
    return folder


def test_login_is_read_and_its_token_is_not_in_its_text(tmp_path: Path) -> None:
    """A credential names the root beside it, and its repr keeps the token."""
    credential = load_credential(_login(tmp_path))
    assert credential.url == "https://localhost:1"
    assert credential.ca == tmp_path / "certificates/root.pem"
    assert "secret" not in repr(credential)


def test_login_goes_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TINYFLEET_URL takes the place of the credential's address."""
    monkeypatch.setenv("TINYFLEET_URL", "https://elsewhere:8443")
    assert load_credential(_login(tmp_path)).url == "https://elsewhere:8443"


def test_missing_login_is_refused(tmp_path: Path) -> None:
    """Without a credential the message says what makes one."""
    with pytest.raises(CredentialError, match="tinyfleet init"):
        load_credential(tmp_path)


def test_login_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A credential must be its owner's alone."""
    with pytest.raises(CredentialError, match="0644"):
        load_credential(_login(tmp_path, mode=0o644))


def test_login_without_token_is_refused(tmp_path: Path) -> None:
    """A credential of another form is refused."""
    with pytest.raises(CredentialError, match="url, ca and token"):
        load_credential(_login(tmp_path, token=None))


def test_root_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    """A root that does not load ends before any connection."""
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates/root.pem").write_text("nothing")
    with pytest.raises(CredentialError, match="PEM certificate"):
        ApiClient.open(load_credential(_login(tmp_path)))


def test_problem_document_becomes_an_error() -> None:
    """Status, title, detail and further members of a problem survive."""
    problem = {"type": "about:blank", "title": "Duplicate claim", "status": 409, "detail": "expected x", "device": "y"}

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(409, json=problem, headers={"Content-Type": "application/problem+json"})

    with pytest.raises(RefusedError, match="Duplicate claim: expected x") as refused:
        _client(handler).post("/devices", {})
    assert (refused.value.status, refused.value.members) == (409, {"device": "y"})


def test_pages_are_followed_to_the_last() -> None:
    """A list is read until no cursor follows."""

    def handler(request: httpx.Request) -> httpx.Response:
        cursor = request.url.params.get("cursor")
        page = {None: {"items": [{"n": 1}], "next_cursor": "c"}, "c": {"items": [{"n": 2}], "next_cursor": None}}
        return httpx.Response(200, json=page[cursor])

    assert [item["n"] for item in _client(handler).items("/devices", group="g")] == [1, 2]


def test_answer_that_is_no_json_is_refused() -> None:
    """An answer of another form is our error, not a ValueError."""
    with pytest.raises(AnswerError, match="expected JSON"):
        _client(lambda _: httpx.Response(200, text="<html>")).get("/devices")


def test_request_is_repeated_while_nobody_listens() -> None:
    """A connection refused is tried again with the same idempotency key."""
    keys: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Idempotency-Key"])
        if len(keys) == 1:
            raise httpx.ConnectError("refused")
        return httpx.Response(201, json={"id": "1"})

    assert _client(handler).post("/products", {"name": "p"}) == {"id": "1"}
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_service_that_breaks_off_is_unreachable() -> None:
    """A transport error names the address."""

    def handler(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("gone")

    with pytest.raises(ServiceUnreachableError, match=r"https://service.*gone"):
        _client(handler).get("/healthz")


def test_patch_carries_the_etag_of_what_it_changes() -> None:
    """A change goes with If-Match, so that it loses no other change."""

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json={}, headers={"ETag": '"7"'})
        return httpx.Response(200, json={"if_match": request.headers["If-Match"]})

    assert _client(handler).patch("/devices/1", {"group_id": "g"}) == {"if_match": '"7"'}


def test_event_stream_is_parsed() -> None:
    """Events carry kind, data of several lines and id; comments are skipped."""
    lines = [": hello", "id: 4", "event: telemetry", "data: a", "data: b", "", "data: c", "", ""]
    assert list(parse_events(lines)) == [StreamEvent("telemetry", "a\nb", "4"), StreamEvent("message", "c", "4")]
