"""The update half: artifacts, repositories, releases, rollouts, the Director, and the worker."""

from dataclasses import dataclass
from datetime import timedelta

from service.adapters.artifact_cache import CachedArtifacts
from service.adapters.artifact_store import ObjectArtifactStore, open_store
from service.adapters.database.gateway_stores import SqlCommandQueue
from service.adapters.log_signer import open_log_key
from service.adapters.metadata_signer import PkiMetadata, load_genesis, load_trusted_keys
from service.adapters.patches import ProcessPatchMaker
from service.adapters.witnesses import HttpWitnesses, parse_witnesses
from service.application.artifacts import Artifacts
from service.application.checkpoints import Checkpoints
from service.application.deltas import DeltaMaker, DeltaPolicy, DeltaPorts, DeltaQueue, Deltas
from service.application.director import Director
from service.application.documents import DocumentIndex, Documents
from service.application.health_reader import HealthReader
from service.application.learned_states import LearnedStates, OrderWaker
from service.application.manifests import Manifests
from service.application.model_health import ModelHealth
from service.application.poll import PendingActions, Poll, PollPacing
from service.application.releases import Releases
from service.application.reports import Reports
from service.application.repository import ImageRepository
from service.application.repository_status import RepositoryStatus
from service.application.retention import Retention
from service.application.rollout_approvals import RolloutRequests
from service.application.rollout_ticks import RolloutTicks
from service.application.rollouts import Rollouts
from service.application.roots import Roots
from service.application.transparency import Transparency
from service.bootstrap.core import Core
from service.domain.model_health import Slots
from service.gateway.server import Gateway
from service.worker import Housekeeping, Waker, Worker, WorkerPorts


@dataclass(frozen=True, slots=True)
class Updates:
    """The update half: releases, rollouts, the Director."""

    transparency: Transparency
    checkpoints: Checkpoints
    artifacts: Artifacts
    documents: Documents
    deltas: Deltas
    delta_maker: DeltaMaker
    repository: ImageRepository
    repository_status: RepositoryStatus
    roots: Roots
    releases: Releases
    rollouts: Rollouts
    rollout_requests: RolloutRequests
    reports: Reports
    manifests: Manifests
    director: Director
    poll: Poll
    learned_states: LearnedStates
    model_health: ModelHealth
    health_reader: HealthReader
    worker: Worker


async def open_updates(core: Core, gateway: Gateway) -> Updates:
    """Publish the first metadata if there is none, load what is unfinished, and make the use cases."""
    settings, clock, entropy, unit_of_work = core.settings, core.clock, core.entropy, core.unit_of_work
    metadata = PkiMetadata.load(settings.data_dir)
    behind = open_store(settings.artifacts_url, default_folder=settings.data_dir / "artifacts")
    store = CachedArtifacts(ObjectArtifactStore(behind), max_bytes=settings.artifact_cache_bytes)
    log_key = open_log_key(settings.data_dir)
    transparency = Transparency(unit_of_work, key=log_key.key, clock=clock)
    checkpoints = Checkpoints(
        unit_of_work,
        signer=log_key,
        witnesses=parse_witnesses(settings.witnesses),
        client=HttpWitnesses(settings.witness_ca_file),
        clock=clock,
    )
    policy = DeltaPolicy(settings.delta_sources, settings.delta_max_percent)
    listeners = (DocumentIndex(store), DeltaQueue(policy), transparency)
    repository = ImageRepository(unit_of_work, metadata=metadata, clock=clock, listeners=listeners)
    await repository.begin(load_genesis(settings.data_dir))
    await transparency.begin()
    pending = PendingActions()
    await pending.load(unit_of_work)
    learned_states = _learned_states(core, gateway)
    kept = timedelta(days=settings.telemetry_retention_days)
    slots = Slots(timedelta(seconds=settings.health_slot_seconds))
    model_health = ModelHealth(unit_of_work, clock=clock, kept=kept, slots=slots)
    worker = _worker(core, repository, (learned_states.keep_house, model_health.keep_house))
    ports = DeltaPorts(unit_of_work, repository, store, ProcessPatchMaker(), clock, is_leader=lambda: worker.leads)
    delta_maker = DeltaMaker(ports, policy)
    for listener in (pending.hear, Waker(pending, gateway).hear, worker.hear, checkpoints.hear, delta_maker.hear):
        core.feed.subscribe(listener)
    artifacts = Artifacts(unit_of_work, store=store, keys=load_trusted_keys(settings.data_dir), clock=clock)
    await artifacts.describe_models()
    rollouts = Rollouts(unit_of_work, clock=clock, entropy=entropy)
    pacing = PollPacing(settings.poll_seconds, min(settings.poll_seconds, settings.busy_poll_seconds))
    return Updates(
        transparency=transparency,
        checkpoints=checkpoints,
        artifacts=artifacts,
        documents=Documents(unit_of_work),
        deltas=Deltas(unit_of_work),
        delta_maker=delta_maker,
        repository=repository,
        repository_status=RepositoryStatus(unit_of_work, clock=clock),
        roots=Roots(unit_of_work, repository=repository, keys=metadata, clock=clock),
        releases=Releases(unit_of_work, repository=repository, clock=clock, entropy=entropy),
        rollouts=rollouts,
        rollout_requests=RolloutRequests(rollouts, core.approvals),
        reports=Reports(unit_of_work, clock=clock),
        manifests=Manifests(unit_of_work, clones=core.clones, clock=clock),
        director=Director(unit_of_work, signer=metadata, clock=clock, entropy=entropy),
        learned_states=learned_states,
        model_health=model_health,
        health_reader=_health_reader(core, model_health),
        poll=Poll(pending, pacing=pacing, entropy=entropy),
        worker=worker,
    )


def _learned_states(core: Core, gateway: Gateway) -> LearnedStates:
    core.feed.subscribe(OrderWaker(gateway).hear)
    kept = timedelta(days=core.settings.event_retention_days)
    return LearnedStates(core.unit_of_work, clock=core.clock, entropy=core.entropy, kept=kept)


def _health_reader(core: Core, health: ModelHealth) -> HealthReader:
    return HealthReader(
        core.unit_of_work,
        core.telemetry_store,
        health,
        arrived=core.gateway_events.telemetry_arrived,
        clock=core.clock,
        owner=core.entropy.guid(),
    )


def _worker(core: Core, repository: ImageRepository, housekeeping: tuple[Housekeeping, ...]) -> Worker:
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
        housekeeping=(
            retention.keep_house,
            core.approvals.keep_house,
            core.revocations.keep_house,
            *housekeeping,
            SqlCommandQueue(core.database).keep_house,
        ),
    )
    return Worker(ports, owner=core.entropy.guid(), longest_sleep_seconds=settings.tick_seconds)
