"""A witness of transparency logs as an HTTP server (C2SP tlog-witness), in one process on its own machine.

    POST /add-checkpoint                 cosigns what follows from the checkpoint that it cosigned last
    GET  /{SHA-256 of origin}/checkpoint shows that checkpoint

It should run where neither the log's operator nor an attacker of the log's service reaches: its worth is that it would
not cosign a second past. What it has cosigned is in its state folder, which must never be restored from a backup.
"""

import fcntl
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pki.errors import WitnessRefusedError, WitnessStateError
from pki.witness import CheckpointWitness
from protocol.tlog import MAX_REQUEST_BYTES
from service.cli import clock
from service.cli.errors import BadArgumentError, CliError
from service.cli.output import remark

TEXT = "text/plain; charset=utf-8"
SIZE = "text/x.tlog.size"
LOCK_FILE = "lock"
MAX_CONNECTIONS = 1000


class WitnessRunningError(CliError):
    """Another process uses the state folder."""


def witness_app(witness: CheckpointWitness) -> Starlette:
    """Make the HTTP server's app; requests are judged one after the other, because judging awaits nothing."""

    async def add_checkpoint(request: Request) -> Response:
        body = await _body(request)
        if body is None:
            return Response("body: too long\n", HTTPStatus.REQUEST_ENTITY_TOO_LARGE, media_type=TEXT)
        try:
            return Response(witness.add_checkpoint(body, at=int(clock.now().timestamp())), media_type=TEXT)
        except WitnessRefusedError as refused:
            if refused.size is not None:
                return Response(f"{refused.size}\n", refused.status, headers={"Content-Type": SIZE})
            return Response(f"{refused}\n", refused.status, media_type=TEXT)
        except WitnessStateError as error:
            return Response(f"{error}\n", HTTPStatus.SERVICE_UNAVAILABLE, media_type=TEXT)

    async def checkpoint(request: Request) -> Response:
        found = witness.checkpoint(request.path_params["origin"])
        if found is None:
            return Response("checkpoint: none of this log\n", HTTPStatus.NOT_FOUND, media_type=TEXT)
        return Response(found, media_type=TEXT)

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{origin}/checkpoint", checkpoint, methods=["GET"]),
        ]
    )


def serve_witness(app: Starlette, host: str, port: int, *, certificate: Path | None, key: Path | None) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        BadArgumentError: certificate and key cannot be used.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        timeout_graceful_shutdown=1,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise BadArgumentError(f"witness: expected a certificate and its key, found: {error}") from error
    bound = config.bind_socket()
    bound.listen()  # who reads the next line may connect at once
    remark(f"listening on {host}:{bound.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[bound])


@contextmanager
def only_one(state: Path) -> Iterator[None]:
    """Hold the state folder: two witnesses of one key on it could cosign two pasts.

    Raises:
        WitnessRunningError: another process holds it.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise WitnessRunningError(f"{state}: expected no other witness on it, found one running") from error
        yield


async def _body(request: Request) -> bytes | None:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_REQUEST_BYTES:
            return None
    return bytes(body)
