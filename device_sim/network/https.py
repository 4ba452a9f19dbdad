"""HTTPS over one kept-alive connection, with a limit on every body and a deadline on every request.

A connection that follows another resumes its TLS session, so that a device may close what it does not need for a while
without paying for signatures again. The session ends with the certificate that it was made with.

A deadline covers headers and body together and is checked before every read from the socket, so a server that sends
one byte now and then cannot hold the device (slow retrieval), and no body is read past its limit (endless data). That
limit is one of what was asked for: of an error's body only the beginning is read, however long it is.
"""

import http.client
import io
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from typing_extensions import Buffer, override

from device_sim.network.ports import (
    EndlessDataError,
    FalseServerError,
    HttpResponse,
    SlowRetrievalError,
    UnreachableError,
)
from device_sim.network.wire import ConnectionCount, WireMeter

USER_AGENT = "tinyfleet-device-sim"
SUCCESS = range(200, 300)
MAX_ERROR_BYTES = 16 * 1024  # of an error's body; the rest is not looked at


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """How long a device waits.

    Attributes:
        connect_seconds: for TCP, and for each flight of the TLS handshake.
        request_seconds: from the request to the last byte of its answer.
    """

    connect_seconds: float = 10.0
    request_seconds: float = 30.0


class _TimedSocket:
    """A connected socket whose reads end at a deadline; http.client asks it for nothing but `makefile`."""

    def __init__(
        self, connected: socket.socket, remaining_seconds: Callable[[], float], on_end: Callable[[], None]
    ) -> None:
        self._socket = connected
        self._remaining_seconds = remaining_seconds
        self._on_end = on_end

    def makefile(self, _mode: str) -> io.BufferedReader:
        raw = self._socket.makefile("rb", buffering=0)
        return io.BufferedReader(_TimedReader(self._socket, raw, self._remaining_seconds, self._on_end))


class _TimedReader(io.RawIOBase):
    def __init__(
        self,
        connected: socket.socket,
        raw: socket.SocketIO,
        remaining_seconds: Callable[[], float],
        on_end: Callable[[], None],
    ) -> None:
        self._socket = connected
        self._raw = raw
        self._remaining_seconds = remaining_seconds
        self._on_end = on_end

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer) -> int | None:
        remaining = self._remaining_seconds()
        if remaining <= 0:
            raise TimeoutError
        self._socket.settimeout(remaining)
        return self._raw.readinto(buffer)

    @override
    def close(self) -> None:
        if not self._raw.closed:
            self._on_end()  # for the last time before the socket may be gone
        self._raw.close()
        super().close()


class _ResumingConnection(http.client.HTTPSConnection):
    """A connection that offers a TLS session."""

    def __init__(
        self, host: str, port: int | None, *, context: ssl.SSLContext, timeout: float, session: ssl.SSLSession | None
    ) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls = context
        self._session = session

    @override
    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host, session=self._session)


class HttpsTransport:
    """The real `HttpTransport`: http.client over TLS, no proxies, no redirects, no cookies."""

    def __init__(
        self,
        base_url: str,
        context: ssl.SSLContext,
        *,
        monotonic: Callable[[], float],
        limits: HttpLimits | None = None,
        meter: WireMeter | None = None,
    ) -> None:
        """Keep a server's address; nothing connects yet.

        Args:
            base_url: `https://host:port`.
            context: from `client_context`.
            monotonic: seconds that never go back.
            limits: how long to wait.
            meter: counts the bytes on the wire.
        """
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "", parts.port
        self._context = context
        self._monotonic = monotonic
        self._limits = limits or HttpLimits()
        self._meter = meter or WireMeter()
        self._connection: http.client.HTTPSConnection | None = None
        self._count: ConnectionCount | None = None
        self._session: ssl.SSLSession | None = None

    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Send one request; a kept-alive connection that the server closed meanwhile is opened anew, once.

        Raises:
            UnreachableError: no answer could be had.
            FalseServerError: the server's certificate does not lead to the voucher's root; nothing was sent.
            EndlessDataError: the body of a success is longer than `max_bytes`.
            SlowRetrievalError: the answer did not arrive in time.
        """
        deadline = self._monotonic() + self._limits.request_seconds
        self._meter.add(requests=1)
        all_headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **(headers or {})}
        if body is not None:
            all_headers["Content-Type"] = "application/json"
        try:
            response = self._send(method, path, body, all_headers, deadline=deadline)
            return self._read(response, path, max_bytes)
        except TimeoutError as error:
            self.close()
            raise SlowRetrievalError(
                f"{path}: expected the whole answer within {self._limits.request_seconds:g} s, found less"
            ) from error
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise FalseServerError(f"{path}: expected a certificate of the service, found {_reason(error)}") from error
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise UnreachableError(f"{path}: expected an answer, found {_reason(error)}") from error
        finally:
            self._carry_count()

    def close(self) -> None:
        """Close the connection; the next request opens a new one, by the same TLS session."""
        if self._connection is None:
            return
        if isinstance(self._connection.sock, ssl.SSLSocket):
            self._session = self._connection.sock.session or self._session
        self._carry_count()
        self._connection.close()
        self._connection = self._count = None

    def renew(self) -> None:
        """Close the connection; the next one shows the context's certificate anew."""
        self.close()
        self._session = None

    def _carry_count(self) -> None:
        if self._count is not None:
            self._count.carry()

    def _send(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, deadline: float
    ) -> http.client.HTTPResponse:
        reused = self._connection is not None
        try:
            return self._exchange(method, path, body, headers, deadline=deadline)
        except (http.client.RemoteDisconnected, ConnectionError, ssl.SSLEOFError):
            if not reused:
                raise
            self.close()
            return self._exchange(method, path, body, headers, deadline=deadline)

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], *, deadline: float
    ) -> http.client.HTTPResponse:
        connection = self._connect()

        def timed_response(connected: socket.socket, method: str | None = None) -> http.client.HTTPResponse:
            timed = _TimedSocket(connected, lambda: deadline - self._monotonic(), self._carry_count)
            return http.client.HTTPResponse(timed, method=method)  # type: ignore[arg-type]  # makefile is all it uses

        connection.response_class = timed_response  # type: ignore[assignment]  # any callable that makes a response
        connection.sock.settimeout(self._limits.request_seconds)  # the last answer's deadline left another one
        connection.request(method, path, body=body, headers=headers)
        return connection.getresponse()

    def _connect(self) -> http.client.HTTPSConnection:
        if self._connection is None:
            self._connection = _ResumingConnection(
                self._host,
                self._port,
                timeout=self._limits.connect_seconds,
                context=self._context,
                session=self._session,
            )
            try:
                self._connection.connect()
            except TimeoutError as error:
                raise ConnectionAbortedError(f"no connection within {self._limits.connect_seconds:g} s") from error
            self._count = ConnectionCount(self._connection.sock, self._meter)
        return self._connection

    def _read(self, response: http.client.HTTPResponse, path: str, max_bytes: int) -> HttpResponse:
        is_success = response.status in SUCCESS
        limit = max_bytes if is_success else MAX_ERROR_BYTES
        body = response.read(limit + 1)
        if len(body) > limit:
            self.close()
            if is_success:
                raise EndlessDataError(f"{path}: expected at most {limit} bytes, found more")
        elif response.length:
            raise http.client.IncompleteRead(body, response.length)
        headers = {name.lower(): value for name, value in response.getheaders()}
        return HttpResponse(response.status, headers, body[:limit])


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
