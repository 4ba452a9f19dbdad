"""The composition root: builds the service from its settings, runs it, and stops it.

    with the settings loaded:  migrate the databases → load the caches → listen → write service.json → serve

Everything runs in one process and one task group: what fails ends the service, and the reason is its exit message.
"""

import asyncio
import fcntl
import json
import os
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop
from sqlalchemy.exc import SQLAlchemyError

from pki.errors import PkiError
from pki.files import PRIVATE_MODE, replace_file
from service.adapters.clock import SystemClock
from service.adapters.database.notifications import Notifications
from service.adapters.entropy import SystemEntropy
from service.adapters.log import configure_logging
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.bootstrap.core import Core, open_core
from service.bootstrap.identity import open_identity
from service.bootstrap.listening import gateway_tls, listening, make_gateway
from service.bootstrap.operators import file_operators, operator_services
from service.bootstrap.updates import Updates, open_updates
from service.config import Settings, SettingsError
from service.domain.errors import ServiceError
from service.gateway.server import Gateway

SERVICE_FILE = "service.json"
_log = structlog.get_logger()


class AlreadyRunningError(ServiceError):
    """Another process serves this data directory."""


class StartError(ServiceError):
    """A key, an address or a database that the service needs is missing, taken or wrong."""


class BrokenServiceError(ServiceError):
    """Something that must run as long as the service failed."""


@dataclass(frozen=True, slots=True)
class RunningService:
    """The addresses of a service that is ready.

    Attributes:
        ca: PEM file of the X.509 root.
    """

    operator_url: str
    device_url: str
    mqtt_host: str
    mqtt_port: int
    ca: Path


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or SIGINT.

    Raises:
        ServiceError: settings, keys, addresses or databases are not as they must be, or background work broke.
    """
    configure_logging(settings.log_format, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve_until_signal(settings))
    except (PkiError, OSError, SQLAlchemyError) as error:
        raise StartError(f"start: {error}") from error
    except ExceptionGroup as group:
        _log.exception("service_failed")
        raise BrokenServiceError(f"expected to run until stopped, found {group.exceptions[0]!r}") from group


async def _serve_until_signal(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    async with running(settings) as service:
        _log.info(
            "ready", operator_url=service.operator_url, device_url=service.device_url, mqtt_port=service.mqtt_port
        )
        await stopping.wait()
        _log.info("stopping")


@asynccontextmanager
async def running(
    settings: Settings, *, clock: Clock | None = None, entropy: Entropy | None = None
) -> AsyncIterator[RunningService]:
    """Run the service around a block of code.

    Args:
        settings: see `service.config`.
        clock: takes the place of the machine's clock, except in TLS.
        entropy: takes the place of the machine's randomness, except in keys and serial numbers.

    Raises:
        ServiceError: as for `serve`.
    """
    with _only_one(settings.data_dir):
        async with AsyncExitStack() as stack:
            core = await open_core(settings, clock or SystemClock(), entropy or SystemEntropy(), stack=stack)
            async with _serving(core) as service:
                yield service


@asynccontextmanager
async def _serving(core: Core) -> AsyncIterator[RunningService]:
    gateway = make_gateway(core)
    updates = await open_updates(core, gateway)
    identity = open_identity(core, gateway)
    core.approvals.check_settings()
    services = operator_services(core, gateway, identity=identity, updates=updates)
    await services.operators.synchronise(file_operators(core.settings.data_dir))
    with listening(core, services, identity=identity, updates=updates) as listeners:
        async with _gateway_listening(core, gateway) as mqtt_port, asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(work) for work in _background(core, updates, gateway)]
            background.append(tasks.create_task(identity.attestation.run()))
            serving = [tasks.create_task(listener.serve_forever()) for listener in listeners]
            service = _addresses(core.settings, *(listener.port for listener in listeners), mqtt_port=mqtt_port)
            try:
                with _service_file(core.settings.data_dir, service):
                    yield service
            finally:
                core.feed.close()
                services.telemetry.close()
                for listener in listeners:
                    listener.stop()
                await asyncio.wait(serving)
                for task in background:
                    task.cancel()
    await core.presence.flush()
    await core.gateway_events.flush()
    await core.clones.flush()


@asynccontextmanager
async def _gateway_listening(core: Core, gateway: Gateway) -> AsyncIterator[int]:
    _, port = await gateway.start(core.settings.host, core.settings.mqtt_port, gateway_tls(core))
    try:
        yield port
    finally:
        await gateway.stop()


def _background(core: Core, updates: Updates, gateway: Gateway) -> Iterator[Coroutine[None, None, None]]:
    yield updates.worker.run()
    yield updates.manifests.run()
    yield updates.delta_maker.run()
    yield updates.checkpoints.run()
    yield updates.health_reader.run()
    yield core.feed.run()
    yield core.revocations.run()
    yield core.authorities.issuing.run()
    if not core.database.is_sqlite:
        yield Notifications(core.database.engine.url, core.feed).run()
    yield core.presence.run()
    yield core.gateway_events.run()
    yield core.clones.run()
    yield _watch(gateway)


async def _watch(gateway: Gateway) -> None:
    """End the service if the gateway breaks; cancelling this must not cancel the gateway."""
    await asyncio.shield(gateway.wait_closed())


def _addresses(settings: Settings, operator_port: int, device_port: int, *, mqtt_port: int) -> RunningService:
    host = f"[{settings.hostname}]" if ":" in settings.hostname else settings.hostname
    return RunningService(
        operator_url=f"https://{host}:{operator_port}",
        device_url=f"https://{host}:{device_port}",
        mqtt_host=settings.hostname,
        mqtt_port=mqtt_port,
        ca=(settings.data_dir / "certificates" / "root.pem").resolve(),
    )


@contextmanager
def _service_file(data_dir: Path, service: RunningService) -> Iterator[None]:
    path = data_dir / SERVICE_FILE
    content = {
        "pid": os.getpid(),
        "operator_url": service.operator_url,
        "device_url": service.device_url,
        "mqtt_host": service.mqtt_host,
        "mqtt_port": service.mqtt_port,
        "ca": str(service.ca),
    }
    replace_file(path, json.dumps(content, indent=2).encode(), mode=PRIVATE_MODE)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data directory: two processes on it would share ports, files and the gateway's sessions."""
    if not data_dir.is_dir():
        raise SettingsError(f"data_dir: expected a folder made by `tinyfleet init`, found no {data_dir}")
    with (data_dir / "service.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise AlreadyRunningError(f"{data_dir}: expected no other service on it, found one running") from error
        yield
