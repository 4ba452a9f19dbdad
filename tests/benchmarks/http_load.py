"""HTTPS load over mutual TLS, run as a process of its own: `python http_load.py PLAN.json` prints one JSON object.

The plan: {"host", "port", "ca", "seconds", "mode", "clients": [{"certificate", "key", "path"}]}, where mode is
`keep-alive` (one connection per client, requests back to back), `full` (a new TLS connection per request) or
`resumed` (a new TCP connection per request that resumes the client's TLS session). The answer: {"requests", "seconds",
"resumed"}.
Bounded: it stops after the plan's seconds, and at the first answer that is not 200.
"""

import asyncio
import json
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

from typing_extensions import override

THREADS = 4  # a Python client is bound by its GIL except inside OpenSSL; four keep two cores busy


class LoadError(Exception):
    """The server did not answer 200."""


def request_bytes(host: str, path: str, *, keep_alive: bool) -> bytes:
    """Return one GET request."""
    connection = "keep-alive" if keep_alive else "close"
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n\r\n".encode()


def client_context(plan: dict[str, Any], client: dict[str, str]) -> ssl.SSLContext:
    """Return the TLS context of one client."""
    context = ssl.create_default_context(cafile=plan["ca"])
    context.load_cert_chain(client["certificate"], client["key"])
    return context


class KeepAliveClient(asyncio.Protocol):
    """Sends the next request when the answer to the last one is complete."""

    def __init__(self, request: bytes, deadline: float) -> None:
        self._request, self._deadline = request, deadline
        self._buffer = b""
        self.requests = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._request)

    @override
    def data_received(self, data: bytes) -> None:
        """Count a complete answer and send the next request."""
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._finish(LoadError(f"expected 200, found {head[:200]!r} {body[:200]!r}"))
            return
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._buffer = b""
        self.requests += 1
        if time.perf_counter() < self._deadline:
            self._transport.write(self._request)
        else:
            self._finish(None)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """End, also when the server closed."""
        self._finish(exc or LoadError("expected an open connection, found it closed"))

    def _finish(self, error: Exception | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
            self._transport.close()


async def keep_alive(plan: dict[str, Any]) -> dict[str, float]:
    """Run the keep-alive mode: connect all clients first, then measure."""
    loop = asyncio.get_running_loop()
    contexts = [client_context(plan, client) for client in plan["clients"]]
    start = time.perf_counter() + 1.0 + 0.01 * len(contexts)
    deadline = start + plan["seconds"]

    async def run(client: dict[str, str], context: ssl.SSLContext) -> tuple[int, float]:
        request = request_bytes(plan["host"], client["path"], keep_alive=True)
        begin = time.perf_counter()
        _, protocol = await loop.create_connection(
            lambda: KeepAliveClient(request, deadline), plan["host"], plan["port"], ssl=context
        )
        await protocol.done
        return protocol.requests, begin

    results = await asyncio.gather(*(run(c, x) for c, x in zip(plan["clients"], contexts, strict=True)))
    seconds = time.perf_counter() - min(begin for _, begin in results)
    return {"requests": sum(count for count, _ in results), "seconds": seconds, "resumed": 0}


def one_connection(
    plan: dict[str, Any], context: ssl.SSLContext, request: bytes, session: ssl.SSLSession | None
) -> tuple[ssl.SSLSession | None, bool]:
    """Make one TLS connection with one request; return the session to resume and whether this one was resumed."""
    with (
        socket.create_connection((plan["host"], plan["port"]), timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=plan["host"], session=session) as tls,
    ):
        tls.sendall(request)
        answer = tls.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise LoadError(f"expected 200, found {answer[:200]!r}")
        return tls.session, bool(tls.session_reused)


def reconnect(plan: dict[str, Any]) -> dict[str, float]:
    """Run the full and resumed modes in a few threads."""
    totals = {"requests": 0, "resumed": 0}
    errors: list[Exception] = []
    lock = threading.Lock()
    deadline = time.perf_counter() + plan["seconds"]

    def run(clients: list[dict[str, str]]) -> None:
        sessions: dict[int, ssl.SSLSession | None] = {}
        prepared = [
            (client_context(plan, c), request_bytes(plan["host"], c["path"], keep_alive=False)) for c in clients
        ]
        try:
            while time.perf_counter() < deadline:
                for index, (context, request) in enumerate(prepared):
                    session = sessions.get(index) if plan["mode"] == "resumed" else None
                    sessions[index], was_resumed = one_connection(plan, context, request, session)
                    with lock:
                        totals["requests"] += 1
                        totals["resumed"] += was_resumed
        except (OSError, LoadError) as error:
            errors.append(error)

    begin = time.perf_counter()
    threads = [threading.Thread(target=run, args=(plan["clients"][index::THREADS],)) for index in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return {**totals, "seconds": time.perf_counter() - begin}


def main() -> None:
    """Run one plan and print what was counted."""
    plan = json.loads(Path(sys.argv[1]).read_text())
    if plan["mode"] == "keep-alive":
        try:
            import uvloop  # noqa: PLC0415 - a faster generator where it is installed

            result = uvloop.run(keep_alive(plan))
        except ImportError:
            result = asyncio.run(keep_alive(plan))
    else:
        result = reconnect(plan)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
