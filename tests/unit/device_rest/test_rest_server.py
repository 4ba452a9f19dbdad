"""The HTTPS server of the device-local interface: its certificate, its limits, and requests that are none."""

import contextlib
import http.client
import itertools
import json
import socket
import ssl
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from device_sim.adapters.clock import WallClock
from device_sim.cli_rest import OneDeviceError, serve_device
from device_sim.errors import DeviceFolderError, StorageFullError
from device_sim.hardware.machine import Machine
from device_sim.rest.certificate import SERVER_NAME, VALIDITY, server_context
from device_sim.rest.errors import Code
from device_sim.rest.routes import JSON_TYPE, OCTETS_TYPE, Answer, Request, Route, Router
from device_sim.rest.server import LOOPBACK, MAX_CONNECTIONS, REQUEST_SECONDS, DeviceServer
from tests.unit.device_hardware.device_builder import DeviceBuilder

NOW = datetime.now(UTC)  # noqa: TID251 - TLS knows no other clock
KIB = 1024


def _fail(_request: Request) -> Answer:
    raise ZeroDivisionError


def _fill(_request: Request) -> Answer:
    raise StorageFullError("full")


ROUTER = Router(
    (
        Route("GET", "hello", lambda _: Answer()),
        Route("PUT", "bytes", lambda request: Answer(request.body, OCTETS_TYPE), OCTETS_TYPE, 2 * 1024 * KIB),
        Route("POST", "json", lambda request: Answer(request.body), JSON_TYPE),
        Route("GET", "fail", _fail),
        Route("GET", "full", _fill),
    )
)


class Served:
    """A server with a few routes, on a port of its own."""

    def __init__(self, folder: Path, monotonic: Callable[[], float] | None = None) -> None:
        context, self.certificate = server_context(folder, NOW)
        self.crashes: list[Exception] = []
        self.server = DeviceServer(
            0,
            context=context,
            router=ROUTER,
            on_crash=self.crashes.append,
            monotonic=monotonic or WallClock().monotonic,
        )
        self.client = ssl.create_default_context(cadata=self.certificate.decode())

    def connect(self) -> ssl.SSLSocket:
        raw = socket.create_connection((LOOPBACK, self.server.port), timeout=20)
        return self.client.wrap_socket(raw, server_hostname="localhost")

    def lets_in(self) -> bool:
        """Whether another connection is taken."""
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def send(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Send bytes, and read the answer."""
        with self.connect() as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, dict(response.getheaders()), response.read()

    def ask(self, line: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        head = [f"{line} HTTP/1.1", f"Host: {SERVER_NAME}", *headers, "", ""]
        return self.send("\r\n".join(head).encode() + body)


@contextmanager
def serving(folder: Path, **parts: Any) -> Iterator[Served]:
    served = Served(folder, **parts)
    thread = threading.Thread(target=served.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield served
    finally:
        served.server.shutdown()
        thread.join()
        served.server.server_close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as running:
        yield running


def trickle(connection: ssl.SSLSocket, content: bytes) -> None:
    """Send bytes one by one, as long as they are taken."""
    for byte in content:
        connection.sendall(bytes([byte]))


def code_of(body: bytes) -> Code:
    content = json.loads(body)
    assert content.keys() == {"error"}
    return Code(content["error"])


def test_every_answer_names_the_interface_version(served: Served) -> None:
    """Successes and refusals."""
    for line in ("GET /hello", "GET /nothing", "BREW /hello"):
        assert served.ask(line)[1]["REST-API-Version"] == "4.6.0"


def test_a_connection_takes_one_request_after_another(served: Served) -> None:
    """As the client's session does."""
    connection = http.client.HTTPSConnection(LOOPBACK, served.server.port, context=served.client)
    for size in (0, 1, 300 * KIB):
        content = b"x" * size
        connection.request("PUT", "/bytes", content, {"Host": SERVER_NAME, "Content-Type": OCTETS_TYPE})
        assert connection.getresponse().read() == content
    connection.close()


def test_a_body_that_is_too_large_is_refused_and_the_answer_heard(served: Served) -> None:
    """Of JSON at 64 KiB, of an image at the size of the flash; the whole body has been sent then."""
    for line, kind, size in (("POST /json", JSON_TYPE, 65 * KIB), ("PUT /bytes", OCTETS_TYPE, 3 * 1024 * KIB)):
        length = f"Content-Length: {size}"
        status, _, body = served.ask(line, length, f"Content-Type: {kind}", body=b"x" * size)
        assert (status, code_of(body)) == (HTTPStatus.BAD_REQUEST, Code.TOO_LARGE)


def test_an_immense_length_is_refused_at_once(served: Served) -> None:
    """Nobody waits for its bytes."""
    with served.connect() as connection:
        head = f"PUT /bytes HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Type: {OCTETS_TYPE}\r\n"
        connection.sendall(f"{head}Content-Length: {10**15}\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        assert code_of(response.read()) is Code.TOO_LARGE


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: -1",),
        ("Content-Length: 1e3",),
        ("Content-Length: 2", "Content-Length: 3"),
        ("Transfer-Encoding: chunked",),
    ],
)
def test_a_length_of_another_form_is_refused(headers: tuple[str, ...], served: Served) -> None:
    """Two readers of it could take it for two things."""
    status, _, body = served.ask("POST /json", f"Content-Type: {JSON_TYPE}", *headers)
    assert (status, code_of(body)) == (HTTPStatus.BAD_REQUEST, Code.INVALID_PARAMETER)


def test_a_truncated_body_reaches_no_handler(served: Served) -> None:
    """The connection is closed without an answer, and the next one is served."""
    with served.connect() as connection:
        head = f"PUT /bytes HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Type: {OCTETS_TYPE}\r\n"
        connection.sendall(f"{head}Content-Length: 100\r\n\r\nshort".encode())
    assert served.ask("GET /hello")[0] == HTTPStatus.OK


def test_another_media_type_is_unsupported(served: Served) -> None:
    """With a code that the client knows."""
    status, _, body = served.ask("PUT /bytes", "Content-Type: text/plain", "Content-Length: 0")
    assert (status, code_of(body)) == (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, Code.INVALID_PARAMETER)


def test_another_host_is_refused(served: Served) -> None:
    """A page of the web that was led to the loopback interface says its own."""
    for host in ("evil.example", f"evil.example:{served.server.port}", ""):
        status, _, body = served.send(f"GET /hello HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        assert (status, code_of(body)) == (HTTPStatus.BAD_REQUEST, Code.INVALID_URI)
    assert served.send(f"GET /hello HTTP/1.1\r\nHost: {LOOPBACK}:1\r\n\r\n".encode())[0] == HTTPStatus.OK


@pytest.mark.parametrize("request_bytes", [b"hello\r\n\r\n", b"GET /" + b"x" * 70_000, b"GET /hello HTTP/9\r\n\r\n"])
def test_what_is_no_http_is_refused(request_bytes: bytes, served: Served) -> None:
    """With JSON, as everything else."""
    status, _, body = served.send(request_bytes + b"\r\n\r\n")
    assert (status, code_of(body)) == (HTTPStatus.BAD_REQUEST, Code.INVALID_URI)


def test_a_handler_that_fails_is_told_and_answered(served: Served) -> None:
    """The device is busy; without a word of the cause. Full storage is told from it."""
    status, _, body = served.ask("GET /fail")
    assert (status, code_of(body)) == (HTTPStatus.INTERNAL_SERVER_ERROR, Code.BUSY)
    assert [type(error) for error in served.crashes] == [ZeroDivisionError]
    assert code_of(served.ask("GET /full")[2]) is Code.NO_SPACE


def test_plain_http_is_cut_off(served: Served) -> None:
    """And the next one is served."""
    with socket.create_connection((LOOPBACK, served.server.port), timeout=20) as raw:
        raw.sendall(b"GET /hello HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while raw.recv(100):
                pass
    assert served.ask("GET /hello")[0] == HTTPStatus.OK


def test_connections_have_an_end(served: Served) -> None:
    """One more than may be is closed at once; when one ends, another is taken."""
    with contextlib.ExitStack() as held:
        first = served.connect()
        for _ in range(MAX_CONNECTIONS - 1):
            held.enter_context(served.connect())
        assert not served.lets_in()
        first.close()
        assert any(served.lets_in() for _ in range(1000))


@pytest.mark.parametrize(
    "head",
    ["", f"PUT /bytes HTTP/1.1\r\nHost: {SERVER_NAME}\r\nContent-Type: {OCTETS_TYPE}\r\nContent-Length: 90000\r\n\r\n"],
)
def test_a_request_that_trickles_is_cut_off(tmp_path: Path, head: str) -> None:
    """Though no pause is long, in its head as in its body; whoever comes after is served."""
    seconds = itertools.count(0.0, REQUEST_SECONDS / 4)  # that pass between two looks at the clock
    with serving(tmp_path, monotonic=lambda: next(seconds)) as served:
        with served.connect() as connection, pytest.raises(OSError, match=r"."):
            trickle(connection, head.encode() + bytes(10_000))
        assert served.ask("GET /hello")[0] == HTTPStatus.OK


def test_stopping_waits_for_no_idle_connection(tmp_path: Path) -> None:
    """The server's end is the connection's."""
    with serving(tmp_path) as served:
        idle = served.connect()
        idle.sendall(f"GET /hello HTTP/1.1\r\nHost: {SERVER_NAME}\r\n\r\n".encode())
        assert idle.recv(15) == b"HTTP/1.1 200 OK"
    with idle, contextlib.suppress(OSError):  # whatever TLS calls such an end
        while idle.recv(1000):
            pass


def test_the_certificate_is_for_a_server_of_days_and_its_key_nowhere(tmp_path: Path) -> None:
    """It names what the client sends, signs nothing, and nothing of its key is left in the folder."""
    _, pem = server_context(tmp_path, NOW)
    certificate = x509.load_pem_x509_certificate(pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert SERVER_NAME in names.get_values_for_type(x509.DNSName)
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc <= VALIDITY + timedelta(hours=1)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_several_devices_and_one_in_use(tmp_path: Path) -> None:
    """One interface is one device, and one device has one machine."""
    builder = DeviceBuilder(tmp_path)
    machine: Machine = builder.ready()
    with pytest.raises(DeviceFolderError, match="found it in use"):
        serve_device(machine.folder, port=0, certificate_file=None)
    machine.close()
    Machine.manufacture(tmp_path, seed=b"another")
    with pytest.raises(OneDeviceError, match="expected one device, found 2"):
        serve_device(tmp_path, port=0, certificate_file=None)
    assert stat.S_IMODE((machine.folder / "rot.json").stat().st_mode) == 0o600
