"""What the operator API may call, and the operators of the settings file."""

from datetime import timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pki.catalog import load_catalog
from service.api.services import Catalog, Services
from service.application.device_attributes import DeviceAttributes
from service.application.device_identity import DeviceIdentities
from service.application.explanation import Explanations
from service.application.fleet import Fleet
from service.application.idempotency import IdempotencyKeys
from service.application.issuing_ca import IssuingCas
from service.application.operators import FileOperator, Operators
from service.application.products import Products
from service.application.request_rate import PublicRate
from service.application.telemetry import Telemetry
from service.application.update_facts import UpdateFacts
from service.bootstrap.core import Core
from service.bootstrap.identity import Identity
from service.bootstrap.updates import Updates
from service.config import SettingsError
from service.gateway.server import Gateway

LOG_REQUESTS_PER_SECOND = 200  # an audit of a million entries makes 8,000; it must not starve revocation
OFFLINE_POLLS = 3  # a device that missed so many polls counts as offline


def operator_services(core: Core, gateway: Gateway, *, identity: Identity, updates: Updates) -> Services:
    """Put together the use cases of the operator API."""
    settings, clock, entropy, unit_of_work = core.settings, core.clock, core.entropy, core.unit_of_work
    catalog = load_catalog(settings.data_dir / "genesis" / "catalog.json")
    facts = UpdateFacts(unit_of_work)
    issuing_cas = IssuingCas(unit_of_work, store=core.authorities.issuing, clock=clock)
    identities = DeviceIdentities(unit_of_work, generations=issuing_cas, clock=clock)
    return Services(
        catalog=Catalog(catalog.catalog_id, catalog.name),
        clock=clock,
        unit_of_work=unit_of_work,
        certificates=identity.certificates,
        feed=core.feed,
        idempotency=IdempotencyKeys(unit_of_work, clock=clock),
        operators=Operators(unit_of_work, clock=clock, entropy=entropy),
        products=Products(unit_of_work, clock=clock, entropy=entropy),
        claims=identity.claims,
        devices=identity.devices,
        attributes=DeviceAttributes(unit_of_work, clock=clock),
        custody=identity.custody,
        possession=identity.possession,
        manufacturers=core.authorities.manufacturers,
        revocations=core.revocations,
        issuer_lists=identity.issuer_lists,
        public_rate=PublicRate(clock),
        log_rate=PublicRate(clock, per_second=LOG_REQUESTS_PER_SECOND, burst=2 * LOG_REQUESTS_PER_SECOND),
        issuing_cas=issuing_cas,
        identities=identities,
        approvals=core.approvals,
        explanations=Explanations(
            identity.devices,
            facts,
            identities=identities,
            clock=clock,
            offline_after=timedelta(seconds=OFFLINE_POLLS * settings.poll_seconds),
        ),
        attestations=identity.attestations,
        rollout_facts=facts,
        artifacts=updates.artifacts,
        documents=updates.documents,
        deltas=updates.deltas,
        repository=updates.repository,
        repository_status=updates.repository_status,
        roots=updates.roots,
        transparency=updates.transparency,
        checkpoints=updates.checkpoints,
        releases=updates.releases,
        rollouts=updates.rollouts,
        rollout_requests=updates.rollout_requests,
        learned_states=updates.learned_states,
        model_health=updates.model_health,
        telemetry=Telemetry(core.telemetry_store, arrived=core.gateway_events.telemetry_arrived),
        fleet=Fleet(
            unit_of_work, telemetry=core.telemetry_store, connected=lambda: gateway.stats()["connected_devices"]
        ),
        gateway_stats=gateway.stats,
    )


def file_operators(data_dir: Path) -> list[FileOperator]:
    """Read operators.json.

    Raises:
        SettingsError: it is missing or malformed.
    """
    path = data_dir / "operators.json"
    if not path.exists():  # taking it for an empty list would lock its operators out
        raise SettingsError(f"{path.name}: expected the file that `tinyfleet init` writes, found none")
    try:
        return TypeAdapter(list[FileOperator]).validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SettingsError(f"{path.name}: expected a list of name, role and token_sha256, found another") from error
