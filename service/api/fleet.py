"""The whole at a glance: catalog, fleet summary, metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from pydantic import BaseModel

from service.api.auth import ViewerActor
from service.api.services import Catalog, ServicesParameter
from service.application.fleet import FleetSummary
from service.application.revocation import CrlStatus
from service.domain.attestation import Verdict
from service.domain.device import DeviceState
from service.domain.rollout import RolloutState

router = APIRouter(tags=["fleet"])
plain_router = APIRouter(tags=["fleet"])  # outside /api/v1, where probes and scrapers look


class CatalogModel(BaseModel):
    """The tenant that owns products, devices and images."""

    id: str
    name: str


class CatalogList(BaseModel):
    """Catalogs; one now."""

    items: list[CatalogModel]
    next_cursor: str | None = None


class SummaryModel(BaseModel):
    """Counts of the fleet."""

    devices: Mapping[DeviceState, int]
    connected: int
    attestations: Mapping[Verdict, int]
    suspected_clones: int
    rollouts: Mapping[RolloutState, int]
    rollouts_running: int
    highest_release: int
    telemetry_stored: int


class Health(BaseModel):
    """The service answers, and so does its database."""

    status: str


@router.get("/catalog")
async def show_catalog(_actor: ViewerActor, services: ServicesParameter) -> CatalogModel:
    """Show the catalog."""
    return _catalog(services.catalog)


@router.get("/catalogs")
async def list_catalogs(_actor: ViewerActor, services: ServicesParameter) -> CatalogList:
    """List catalogs."""
    return CatalogList(items=[_catalog(services.catalog)])


@router.get("/fleet/summary")
async def summarise_fleet(_actor: ViewerActor, services: ServicesParameter) -> SummaryModel:
    """Count devices, attestations, rollouts and telemetry."""
    summary = await services.fleet.summary()
    return SummaryModel(
        devices=summary.devices,
        connected=summary.connected,
        attestations=summary.attestations,
        suspected_clones=summary.suspected_clones,
        rollouts=summary.rollouts,
        rollouts_running=summary.rollouts.get(RolloutState.RUNNING, 0),
        highest_release=summary.highest_release,
        telemetry_stored=summary.telemetry_stored,
    )


@plain_router.get("/healthz")
async def check_health(services: ServicesParameter) -> Health:
    """Say that the service and its database answer; needs no credential."""
    async with services.unit_of_work(read_only=True) as work:
        await work.events.last_sequence()
    return Health(status="ok")


_METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Prometheus text format.", "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}}}}
}


@plain_router.get("/metrics", response_class=Response, responses=_METRICS)
async def show_metrics(_actor: ViewerActor, services: ServicesParameter) -> Response:
    """Show metrics for Prometheus; a viewer's token is enough."""
    registry = CollectorRegistry()
    _collect_fleet(registry, await services.fleet.summary())
    _collect_crls(registry, services.revocations.statuses())
    gateway = Gauge("tinyfleet_gateway", "Figures of the MQTT gateway since the start.", ["figure"], registry=registry)
    for figure, value in services.gateway_stats().items():
        gateway.labels(figure).set(value)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _collect_crls(registry: CollectorRegistry, statuses: Sequence[CrlStatus]) -> None:
    due = "When an authority's next revocation list is due, Unix time; 0 before the first."
    next_update = Gauge("tinyfleet_crl_next_update_seconds", due, ["issuer"], registry=registry)
    revoked = Gauge("tinyfleet_crl_revoked", "Certificates on the list in force.", ["issuer"], registry=registry)
    for status in statuses:
        crl = status.crl
        next_update.labels(status.issuer).set(0 if crl is None else crl.next_update.timestamp())
        revoked.labels(status.issuer).set(0 if crl is None else len(crl.revoked))


def _collect_fleet(registry: CollectorRegistry, summary: FleetSummary) -> None:
    devices = Gauge("tinyfleet_devices", "Devices by state.", ["state"], registry=registry)
    for state, count in summary.devices.items():
        devices.labels(state).set(count)
    attestations = Gauge("tinyfleet_attestations", "Devices by last result.", ["result"], registry=registry)
    for verdict, count in summary.attestations.items():
        attestations.labels(verdict).set(count)
    suspected = "Devices that two live ones seem to be."
    Gauge("tinyfleet_suspected_clones", suspected, registry=registry).set(summary.suspected_clones)
    rollouts = Gauge("tinyfleet_rollouts", "Rollouts by state.", ["state"], registry=registry)
    for rollout_state, count in summary.rollouts.items():
        rollouts.labels(rollout_state).set(count)
    held = "Actions that wait for a maintenance window, their device's user, or its place."
    Gauge("tinyfleet_actions_held", held, registry=registry).set(summary.held)
    Gauge("tinyfleet_connected", "Connected devices.", registry=registry).set(summary.connected)
    Gauge("tinyfleet_telemetry_stored", "Stored messages.", registry=registry).set(summary.telemetry_stored)


def _catalog(catalog: Catalog) -> CatalogModel:
    return CatalogModel(id=catalog.catalog_id, name=catalog.name)
