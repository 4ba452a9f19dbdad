"""What everything else is built from: keys, databases, caches and the event feed."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from pki.online import refuse_earlier_folder
from service.adapters.certificates import Authorities, load_authorities
from service.adapters.database.engine import Database, database_url
from service.adapters.database.event_reader import SqlEventReader
from service.adapters.database.migration import migrate
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.adapters.revocation import load_first_crls, load_issuers, load_responder
from service.adapters.telemetry.postgres import PostgresTelemetryStore
from service.adapters.telemetry.sqlite import SqliteTelemetryStore
from service.application.approvals import Approvals
from service.application.clock import Clock
from service.application.clones import Clones
from service.application.entropy import Entropy
from service.application.events import EventFeed
from service.application.gateway_events import GatewayEvents
from service.application.presence import Presence
from service.application.revocation import Revocations
from service.application.standing import Standings
from service.config import Settings

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Core:
    """What everything else is built from."""

    settings: Settings
    clock: Clock
    entropy: Entropy
    authorities: Authorities
    database: Database
    unit_of_work: SqlUnitOfWorkFactory
    feed: EventFeed
    standings: Standings
    revocations: Revocations
    approvals: Approvals
    clones: Clones
    presence: Presence
    gateway_events: GatewayEvents
    telemetry_store: SqliteTelemetryStore | PostgresTelemetryStore


async def open_core(settings: Settings, clock: Clock, entropy: Entropy, *, stack: AsyncExitStack) -> Core:
    """Read the keys, migrate the databases, load the caches; `stack` closes what was opened.

    Raises:
        PkiError: a key or certificate is missing, malformed, or of another key.
        SQLAlchemyError: a database cannot be reached.
    """
    refuse_earlier_folder(settings.data_dir)
    authorities = load_authorities(settings.data_dir)
    database = await _open_database(settings, stack)
    telemetry_store = await _open_telemetry(settings)
    stack.push_async_callback(telemetry_store.close)
    unit_of_work = SqlUnitOfWorkFactory(database, entropy=entropy)
    presence = Presence(unit_of_work, flush_seconds=settings.last_seen_flush_seconds)
    feed, standings = EventFeed(SqlEventReader(unit_of_work)), Standings()
    clones = Clones(unit_of_work, clock=clock, blocks=settings.on_clone == "block")
    unit_of_work.on_commit = feed.wake
    await feed.start()
    await standings.load(unit_of_work)
    feed.subscribe(standings.hear)
    issuers = load_issuers(settings.data_dir, authorities.manufacturers)
    responder = load_responder(settings.data_dir)
    revocations = Revocations(unit_of_work, issuers=issuers, responder=responder, standings=standings, clock=clock)
    await revocations.load()
    await revocations.begin(load_first_crls(settings.data_dir))
    feed.subscribe(revocations.hear)
    return Core(
        settings=settings,
        clock=clock,
        entropy=entropy,
        authorities=authorities,
        database=database,
        unit_of_work=unit_of_work,
        feed=feed,
        standings=standings,
        revocations=revocations,
        approvals=Approvals(
            unit_of_work,
            clock=clock,
            entropy=entropy,
            two_person=settings.two_person_actions,
            lifetime=timedelta(seconds=settings.approval_lifetime_seconds),
            kept=timedelta(days=settings.event_retention_days),
        ),
        clones=clones,
        presence=presence,
        gateway_events=GatewayEvents(unit_of_work, presence=presence, clones=clones, clock=clock),
        telemetry_store=telemetry_store,
    )


async def _open_database(settings: Settings, stack: AsyncExitStack) -> Database:
    database = Database(database_url(settings.database_location(), password=settings.database_password()))
    stack.push_async_callback(database.close)
    before, after = await migrate(database)
    if before != after:
        _log.info("database_migrated", before=before, after=after)
    return database


async def _open_telemetry(settings: Settings) -> SqliteTelemetryStore | PostgresTelemetryStore:
    url = database_url(settings.telemetry_location(), password=settings.database_password())
    if url.get_backend_name() == "sqlite":
        return await SqliteTelemetryStore.open(Path(url.database or ""))
    return await PostgresTelemetryStore.open(url.render_as_string(hide_password=False))
