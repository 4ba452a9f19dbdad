"""The composition root: builds the service from its settings, runs it, and stops it.

    with the settings loaded:  migrate the databases → load the caches → listen → write service.json → serve

Everything runs in one process and one task group: what fails ends the service, and the reason is its exit message.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import ssl
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog
import uvloop
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError

from pki.catalog import load_catalog
from pki.errors import PkiError
from pki.files import PRIVATE_MODE, replace_file
from service.adapters.artifact_store import ObjectArtifactStore, open_store
from service.adapters.certificates import Authorities, PkiIssuer, PkiVerifier, load_authorities
from service.adapters.clock import SystemClock
from service.adapters.database.engine import Database, database_url
from service.adapters.database.event_reader import SqlEventReader
from service.adapters.database.gateway_stores import SqlCommandQueue, SqlSubscriptions
from service.adapters.database.migration import migrate
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.adapters.entropy import SystemEntropy
from service.adapters.log import configure_logging
from service.adapters.metadata_signer import PkiMetadata, load_genesis, load_trusted_keys
from service.adapters.telemetry.postgres import PostgresTelemetryStore
from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from service.api.app import operator_app
from service.api.artifacts import artifact_routes
from service.api.attest import attest_routes
from service.api.device_gate import DeviceGate
from service.api.device_poll import POLL_PATH, PollEndpoint
from service.api.listeners import DeviceConnections, Listener, ServerFiles, tls_context
from service.api.reports import report_routes
from service.api.services import Catalog, Services
from service.api.uptane import uptane_routes
from service.application.artifacts import Artifacts
from service.application.attestation import Attestation, AttestationResults
from service.application.claims import Claims
from service.application.clock import Clock
from service.application.devices import Devices
from service.application.director import Director
from service.application.entropy import Entropy
from service.application.events import EventFeed
from service.application.explanation import Explanations
from service.application.fleet import Fleet
from service.application.gateway_events import GatewayEvents
from service.application.idempotency import IdempotencyKeys
from service.application.operators import FileOperator, Operators
from service.application.poll import PendingActions, Poll, PollPacing
from service.application.presence import Presence
from service.application.products import Products
from service.application.releases import Releases
from service.application.reports import Reports
from service.application.repository import ImageRepository
from service.application.retention import Retention
from service.application.rollout_ticks import RolloutTicks
from service.application.rollouts import Rollouts
from service.application.standing import Standings
from service.application.telemetry import Telemetry
from service.application.update_facts import UpdateFacts
from service.config import Settings, SettingsError
from service.domain.errors import ServiceError
from service.gateway.admission import LdevidAdmission
from service.gateway.host import GatewayPorts
from service.gateway.server import Gateway
from service.gateway.tls import server_context
from service.worker import Waker, Worker, WorkerPorts

SERVICE_FILE = "service.json"
OFFLINE_POLLS = 3  # a device that missed so many polls counts as offline
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


@dataclass(frozen=True, slots=True)
class _Updates:
    """The update half: releases, rollouts, the Director."""

    artifacts: Artifacts
    repository: ImageRepository
    releases: Releases
    rollouts: Rollouts
    reports: Reports
    director: Director
    poll: Poll
    worker: Worker


@dataclass(frozen=True, slots=True)
class _Core:
    """What everything else is built from."""

    settings: Settings
    clock: Clock
    entropy: Entropy
    authorities: Authorities
    database: Database
    unit_of_work: SqlUnitOfWorkFactory
    feed: EventFeed
    standings: Standings
    presence: Presence
    gateway_events: GatewayEvents
    telemetry_store: SqliteTelemetryStore | PostgresTelemetryStore


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
            core = await _open_core(settings, clock or SystemClock(), entropy or SystemEntropy(), stack=stack)
            async with _serving(core) as service:
                yield service


async def _open_core(settings: Settings, clock: Clock, entropy: Entropy, *, stack: AsyncExitStack) -> _Core:
    authorities = load_authorities(settings.data_dir)
    database = Database(database_url(settings.database_location(), password=settings.database_password()))
    stack.push_async_callback(database.close)
    before, after = await migrate(database)
    if before != after:
        _log.info("database_migrated", before=before, after=after)
    telemetry_store = await _open_telemetry(settings)
    stack.push_async_callback(telemetry_store.close)
    unit_of_work = SqlUnitOfWorkFactory(database)
    presence = Presence(unit_of_work, flush_seconds=settings.last_seen_flush_seconds)
    feed, standings = EventFeed(SqlEventReader(unit_of_work)), Standings()
    unit_of_work.on_commit = feed.wake
    await feed.start()
    await standings.load(unit_of_work)
    feed.subscribe(standings.hear)
    return _Core(
        settings=settings,
        clock=clock,
        entropy=entropy,
        authorities=authorities,
        database=database,
        unit_of_work=unit_of_work,
        feed=feed,
        standings=standings,
        presence=presence,
        gateway_events=GatewayEvents(unit_of_work, presence=presence, clock=clock),
        telemetry_store=telemetry_store,
    )


async def _open_telemetry(settings: Settings) -> SqliteTelemetryStore | PostgresTelemetryStore:
    url = database_url(settings.telemetry_location(), password=settings.database_password())
    if url.get_backend_name() == "sqlite":
        return await SqliteTelemetryStore.open(Path(url.database or ""))
    return await PostgresTelemetryStore.open(url.render_as_string(hide_password=False))


@asynccontextmanager
async def _serving(core: _Core) -> AsyncIterator[RunningService]:
    gateway = _gateway(core)
    updates = await _open_updates(core, gateway)
    services = _services(core, gateway, updates)
    await services.operators.synchronise(_file_operators(core.settings.data_dir))
    with _listening(core, services, updates) as listeners:
        async with _gateway_listening(core, gateway) as mqtt_port, asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(work) for work in _background(core, updates, gateway)]
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


@asynccontextmanager
async def _gateway_listening(core: _Core, gateway: Gateway) -> AsyncIterator[int]:
    _, port = await gateway.start(core.settings.host, core.settings.mqtt_port, _gateway_tls(core))
    try:
        yield port
    finally:
        await gateway.stop()


def _background(core: _Core, updates: _Updates, gateway: Gateway) -> Iterator[Coroutine[None, None, None]]:
    yield updates.worker.run()
    yield core.feed.run()
    yield core.presence.run()
    yield core.gateway_events.run()
    yield _watch(gateway)


async def _watch(gateway: Gateway) -> None:
    """End the service if the gateway breaks; cancelling this must not cancel the gateway."""
    await asyncio.shield(gateway.wait_closed())


async def _open_updates(core: _Core, gateway: Gateway) -> _Updates:
    settings, clock, entropy, unit_of_work = core.settings, core.clock, core.entropy, core.unit_of_work
    metadata = PkiMetadata.load(settings.data_dir)
    repository = ImageRepository(unit_of_work, metadata=metadata, clock=clock)
    await repository.begin(load_genesis(settings.data_dir))
    store = ObjectArtifactStore(open_store(settings.artifacts_url, default_folder=settings.data_dir / "artifacts"))
    pending = PendingActions()
    await pending.load(unit_of_work)
    worker = _worker(core, repository)
    for listener in (pending.hear, Waker(pending, gateway).hear, worker.hear):
        core.feed.subscribe(listener)
    pacing = PollPacing(settings.poll_seconds, min(settings.poll_seconds, settings.busy_poll_seconds))
    return _Updates(
        artifacts=Artifacts(unit_of_work, store=store, keys=load_trusted_keys(settings.data_dir), clock=clock),
        repository=repository,
        releases=Releases(unit_of_work, repository=repository, clock=clock, entropy=entropy),
        rollouts=Rollouts(unit_of_work, clock=clock, entropy=entropy),
        reports=Reports(unit_of_work, clock=clock),
        director=Director(unit_of_work, signer=metadata, clock=clock),
        poll=Poll(pending, pacing=pacing, entropy=entropy),
        worker=worker,
    )


def _worker(core: _Core, repository: ImageRepository) -> Worker:
    settings = core.settings
    retention = Retention(
        core.unit_of_work,
        core.telemetry_store,
        telemetry_age=timedelta(days=settings.telemetry_retention_days),
        event_age=timedelta(days=settings.event_retention_days),
    )
    ports = WorkerPorts(
        unit_of_work=core.unit_of_work,
        ticks=RolloutTicks(core.unit_of_work, clock=core.clock, entropy=core.entropy),
        repository=repository,
        clock=core.clock,
        housekeeping=(retention.keep_house, SqlCommandQueue(core.database).keep_house),
    )
    return Worker(ports, owner=core.entropy.guid(), longest_sleep_seconds=settings.tick_seconds)


def _services(core: _Core, gateway: Gateway, updates: _Updates) -> Services:
    settings, clock, entropy, unit_of_work = core.settings, core.clock, core.entropy, core.unit_of_work
    catalog = load_catalog(settings.data_dir / "genesis" / "catalog.json")
    certificates, facts = PkiVerifier(core.authorities, clock), UpdateFacts(unit_of_work)
    devices = Devices(unit_of_work, standings=core.standings, presence=core.presence, connectivity=gateway, clock=clock)
    return Services(
        catalog=Catalog(catalog.catalog_id, catalog.name),
        clock=clock,
        unit_of_work=unit_of_work,
        certificates=certificates,
        feed=core.feed,
        idempotency=IdempotencyKeys(unit_of_work, clock=clock),
        operators=Operators(unit_of_work, clock=clock, entropy=entropy),
        products=Products(unit_of_work, clock=clock, entropy=entropy),
        claims=Claims(
            unit_of_work,
            certificates=certificates,
            standings=core.standings,
            clock=clock,
            entropy=entropy,
            challenge_lifetime=timedelta(seconds=settings.challenge_lifetime_seconds),
        ),
        devices=devices,
        explanations=Explanations(
            devices, facts, clock=clock, offline_after=timedelta(seconds=OFFLINE_POLLS * settings.poll_seconds)
        ),
        attestations=AttestationResults(unit_of_work),
        rollout_facts=facts,
        artifacts=updates.artifacts,
        repository=updates.repository,
        releases=updates.releases,
        rollouts=updates.rollouts,
        telemetry=Telemetry(core.telemetry_store, arrived=core.gateway_events.telemetry_arrived),
        fleet=Fleet(
            unit_of_work, telemetry=core.telemetry_store, connected=lambda: gateway.stats()["connected_devices"]
        ),
        gateway_stats=gateway.stats,
    )


def _attestation(core: _Core) -> Attestation:
    lifetime = timedelta(seconds=core.settings.certificate_lifetime_seconds)
    return Attestation(
        core.unit_of_work,
        issuer=PkiIssuer(core.authorities, core.clock, lifetime=lifetime),
        reference_values=UpdateFacts(core.unit_of_work),
        clock=core.clock,
        entropy=core.entropy,
        nonce_lifetime=timedelta(seconds=core.settings.nonce_lifetime_seconds),
    )


@contextmanager
def _listening(core: _Core, services: Services, updates: _Updates) -> Iterator[tuple[Listener, Listener]]:
    settings = core.settings
    connections = DeviceConnections(services.certificates, core.clock)
    core.standings.on_block(connections.kick)
    gate = DeviceGate(
        routes=[
            *attest_routes(_attestation(core)),
            *uptane_routes(updates.director, updates.repository),
            *artifact_routes(updates.artifacts),
            *report_routes(updates.reports),
        ],
        exact={POLL_PATH: PollEndpoint(updates.poll, fleet_size=core.standings.count)},
        standings=core.standings,
        clock=core.clock,
        heard=core.presence.heard,
    )
    files = _server_files(core)
    operators = Listener(
        operator_app(services),
        address=(settings.host, settings.operator_port),
        tls=tls_context(files, certificate_required=False),
    )
    with contextlib.closing(operators):
        devices = Listener(
            gate,
            address=(settings.host, settings.device_port),
            tls=tls_context(files, certificate_required=True),
            devices=connections,
        )
        with contextlib.closing(devices):
            yield operators, devices


def _server_files(core: _Core) -> ServerFiles:
    data_dir = core.settings.data_dir
    return ServerFiles(
        certificate=data_dir / "certificates" / "server.pem",
        key=data_dir / "keys" / "server.pem",
        root=core.authorities.root,
        intermediates=(core.authorities.factory, core.authorities.issuing_ca.certificate),
    )


def _gateway(core: _Core) -> Gateway:
    issuers = [core.authorities.issuing_ca.certificate]
    ports = GatewayPorts(
        admission=LdevidAdmission(issuers, standing=core.standings, clock=core.clock),
        telemetry=core.telemetry_store,
        subscriptions=SqlSubscriptions(core.database),
        commands=SqlCommandQueue(core.database),
        events=core.gateway_events,
        clock=core.clock,
    )
    gateway = Gateway(ports)
    core.standings.on_block(gateway.kick)
    return gateway


def _gateway_tls(core: _Core) -> ssl.SSLContext:
    files = _server_files(core)
    return server_context(files.certificate, files.key, issuers=[core.authorities.issuing_ca.certificate])


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


def _file_operators(data_dir: Path) -> list[FileOperator]:
    path = data_dir / "operators.json"
    if not path.exists():  # taking it for an empty list would lock its operators out
        raise SettingsError(f"{path.name}: expected the file that `tinyfleet init` writes, found none")
    try:
        return TypeAdapter(list[FileOperator]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SettingsError(f"{path.name}: expected a list of name, role and token_sha256, found another") from error
