"""HTTPS over a loopback port: bounded threads, bounded bodies, one request at a time on the machine.

What is not a request of the interface is answered or closed without touching the machine, in this order:
    1. host: the client's name of the device, or loopback; a web page that was led here by its own name gets nothing;
    2. route: known path and method;
    3. media type;
    4. length: declared once, no more than the route takes; somewhat more is read away, so that the answer is heard.
"""

import contextlib
import io
import json
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Any

from typing_extensions import override

from device_sim.errors import StorageFullError
from device_sim.rest.certificate import SERVER_NAME
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.routes import Answer, Request, Route, Router, refusal_answer, require_type
from protocol.flash_geometry import MAX_FLASH_BYTES

LOOPBACK = "127.0.0.1"
API_VERSION = "4.6.0"  # the newest that the client asks for
MAX_CONNECTIONS = 8
IDLE_SECONDS = 30.0
REQUEST_SECONDS = 60.0  # for a whole request, however steadily it trickles
MAX_DRAINED_BYTES = 2 * MAX_FLASH_BYTES
_PIECE_BYTES = 65536
_HOSTS = frozenset({SERVER_NAME, "localhost", LOOPBACK})


class DeviceServer(TCPServer):
    """Serves the interface of one device until `shutdown`.

    Args:
        port: to listen on; 0 takes a free one.
        context: TLS of the server.
        router: of the interface.
        on_crash: told of an error that no handler may raise.
        monotonic: of the host, seconds.

    Raises:
        OSError: the port is taken.
    """

    allow_reuse_address = True

    def __init__(
        self,
        port: int,
        *,
        context: ssl.SSLContext,
        router: Router,
        on_crash: Callable[[Exception], None],
        monotonic: Callable[[], float],
    ) -> None:
        super().__init__((LOOPBACK, port), _Handler)
        self.monotonic = monotonic
        self._context = context
        self._router = router
        self._on_crash = on_crash
        self._machine = threading.Lock()
        self._threads = ThreadPoolExecutor(MAX_CONNECTIONS)
        self._places = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: dict[int, socket.socket] = {}  # by the thread that serves it
        self._is_closed = False
        self._connections = threading.Lock()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        self._threads.submit(self._converse, request, client_address)

    @override
    def server_close(self) -> None:
        super().server_close()
        with self._connections:
            self._is_closed = True
            for connection in self._open.values():
                _hang_up(connection)
        self._threads.shutdown()

    def find(self, method: str, target: str) -> tuple[Route, tuple[str, ...]]:
        """Return the route of a request; see `Router.find`."""
        return self._router.find(method, target)

    def answer(self, route: Route, request: Request) -> Answer:
        """Have a route's handler answer, alone on the machine."""
        try:
            with self._machine:
                return route.handle(request)
        except RequestRefusedError as error:
            return refusal_answer(error)
        except StorageFullError as error:
            return refusal_answer(RequestRefusedError(Code.NO_SPACE, str(error)))
        except Exception as error:  # noqa: BLE001 - a fault of the simulator, which is told and counted
            self._on_crash(error)
            return refusal_answer(RequestRefusedError(Code.BUSY, str(error)))

    def _converse(self, connection: socket.socket, client_address: Any) -> None:  # noqa: ANN401 - of socketserver
        connection.settimeout(IDLE_SECONDS)
        try:
            with self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secured:
                self._enter(secured)
                secured.do_handshake()
                self.finish_request(secured, client_address)
        except OSError:
            connection.close()  # it hung up, was too slow, or speaks no TLS
        finally:
            self._leave()

    def _enter(self, connection: socket.socket) -> None:
        with self._connections:
            if self._is_closed:
                raise ConnectionAbortedError
            self._open[threading.get_ident()] = connection

    def _leave(self) -> None:
        with self._connections:
            self._open.pop(threading.get_ident(), None)
        self._places.release()


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is closed already
        # Not that of TLS, which another thread is using; and what it is writing still goes out.
        socket.socket.shutdown(connection, socket.SHUT_RD)


class _TimedReader(io.RawIOBase):
    """What a connection sends; a request has a time limit as a whole, from its first bytes on.

    Args:
        connection: is read from.
        monotonic: of the host, seconds.
    """

    def __init__(self, connection: socket.socket, monotonic: Callable[[], float]) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._deadline: float | None = None

    def begin(self) -> None:
        """Expect another request."""
        self._deadline = None

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        left = IDLE_SECONDS if self._deadline is None else self._deadline - self._monotonic()
        if left <= 0:
            raise TimeoutError(f"request: expected it within {REQUEST_SECONDS:g} s, found it unfinished")
        self._connection.settimeout(min(left, IDLE_SECONDS))
        found = self._connection.recv_into(buffer)
        self._connection.settimeout(IDLE_SECONDS)
        if self._deadline is None:
            self._deadline = self._monotonic() + REQUEST_SECONDS
        return found


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    server: DeviceServer

    @override
    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self._reader = _TimedReader(self.connection, self.server.monotonic)
        self.rfile = io.BufferedReader(self._reader)

    @override
    def handle_one_request(self) -> None:
        self._reader.begin()
        super().handle_one_request()

    def _serve(self) -> None:
        try:
            # Step 1: host.
            self._require_host()
            # Step 2: route.
            route, parameters = self.server.find(self.command, self.path)
            # Step 3: media type.
            require_type(route, self.headers.get("Content-Type"))
            # Step 4: length.
            body = self._read_body(route.max_body_bytes)
        except RequestRefusedError as error:
            self.close_connection = True
            self._drain()
            self._reply(refusal_answer(error))
        else:
            self._reply(self.server.answer(route, Request(parameters, body)))

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _serve  # noqa: N815 - names of http.server

    def _require_host(self) -> None:
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if host not in _HOSTS:
            raise RequestRefusedError(
                Code.INVALID_URI, f"host: expected {SERVER_NAME}, found {host[:80]!r}", status=HTTPStatus.BAD_REQUEST
            )

    def _declared_bytes(self) -> int:
        found = self.headers.get_all("Content-Length", ["0"])
        if "Transfer-Encoding" in self.headers or len(found) != 1 or not (found[0].isascii() and found[0].isdigit()):
            raise RequestRefusedError(Code.INVALID_PARAMETER, "body: expected one length of it, found another form")
        return int(found[0][:20])

    def _read_body(self, most: int) -> bytes:
        length = self._declared_bytes()
        if length > most:
            raise RequestRefusedError(Code.TOO_LARGE, f"body: expected at most {most} bytes, found {length}")
        body = self.rfile.read(length)
        if len(body) != length:
            raise ConnectionError(f"body: expected {length} bytes, found {len(body)}")
        return body

    def _drain(self) -> None:
        try:
            left = self._declared_bytes()
        except RequestRefusedError:
            return
        while 0 < left <= MAX_DRAINED_BYTES and (piece := self.rfile.read1(min(left, _PIECE_BYTES))):
            left -= len(piece)

    def _reply(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("REST-API-Version", API_VERSION)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)

    @override
    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server refuses itself: a malformed request, or a method that nothing has."""
        self.close_connection = True
        self.request_version = self.protocol_version  # else a request that is none gets an answer without headers
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus.BAD_REQUEST
        self._reply(Answer(json.dumps({"error": int(Code.INVALID_URI)}).encode(), status=status))

    @override
    def version_string(self) -> str:
        return "device-sim"

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what the device does is in its events."""
