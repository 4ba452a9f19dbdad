"""The listeners: HTTPS for operators, HTTPS and MQTT with mutual TLS for devices."""

import contextlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from pki.online import in_force
from pki.roles import OnlineKey
from service.adapters.database.gateway_stores import SqlCommandQueue, SqlSubscriptions
from service.api.app import operator_app
from service.api.artifacts import ARTIFACTS_PATH, ArtifactEndpoint
from service.api.attest import attest_routes
from service.api.device_gate import DeviceGate
from service.api.device_poll import POLL_PATH, PollEndpoint
from service.api.est import est_routes
from service.api.learned_states import learned_state_routes
from service.api.listeners import DeviceConnections, Listener, ServerFiles, tls_context
from service.api.reports import report_routes
from service.api.services import Services
from service.api.transparency import transparency_routes
from service.api.uptane import uptane_routes
from service.bootstrap.core import Core
from service.bootstrap.identity import Identity
from service.bootstrap.updates import Updates
from service.gateway.admission import LdevidAdmission
from service.gateway.host import GatewayPorts
from service.gateway.limits import Limits
from service.gateway.server import Gateway
from service.gateway.tls import server_context, trust


@contextmanager
def listening(
    core: Core, services: Services, *, identity: Identity, updates: Updates
) -> Iterator[tuple[Listener, Listener]]:
    """Bind the HTTPS listeners of operators and devices."""
    settings = core.settings
    connections = DeviceConnections(services.certificates, core.clock, core.clones.used)
    core.standings.on_shut_out(connections.kick)
    gate = DeviceGate(
        routes=[
            *attest_routes(identity.attestation),
            *est_routes(identity.est, nonce_seconds=settings.nonce_lifetime_seconds),
            *uptane_routes(updates.director, updates.repository),
            *transparency_routes(updates.transparency),
            *report_routes(updates.reports, updates.manifests),
            *learned_state_routes(updates.learned_states),
        ],
        exact={POLL_PATH: PollEndpoint(updates.poll, fleet_size=core.standings.count)},
        below={ARTIFACTS_PATH: ArtifactEndpoint(updates.artifacts)},
        standings=core.standings,
        clock=core.clock,
        heard=core.presence.heard,
    )
    files = _server_files(core)
    device_tls = tls_context(_with_manufacturers(files, core), certificate_required=True)
    core.authorities.issuing.on_change(partial(trust, device_tls))
    core.authorities.issuing.on_retirement(lambda _trusted: connections.kick_refused())
    operators = Listener(
        operator_app(services),
        address=(settings.host, settings.operator_port),
        tls=tls_context(files, certificate_required=False),
    )
    with contextlib.closing(operators):
        devices = Listener(
            gate,
            address=(settings.host, settings.device_port),
            tls=device_tls,
            devices=connections,
        )
        with contextlib.closing(devices):
            yield operators, devices


def _server_files(core: Core) -> ServerFiles:
    data_dir = core.settings.data_dir
    file = f"{in_force(data_dir, OnlineKey.SERVER)}.pem"
    return ServerFiles(
        certificate=data_dir / "certificates" / file,
        key=data_dir / "keys" / file,
        root=core.authorities.root,
        intermediates=(core.authorities.factory, *core.authorities.issuing.trusted),
    )


def _with_manufacturers(files: ServerFiles, core: Core) -> ServerFiles:
    """Let devices of trusted manufacturers through the handshake; `PkiVerifier` then says what they may."""
    foreign = (
        certificate for each in core.authorities.foreign_factories for certificate in (each.root, each.certificate)
    )
    return replace(files, intermediates=(*files.intermediates, *foreign))


def make_gateway(core: Core) -> Gateway:
    """Make the MQTT gateway, which closes the connections of a device that may not hold them any more."""
    issuing = core.authorities.issuing
    admission = LdevidAdmission(issuing.trusted, standing=core.standings, clock=core.clock)
    issuing.on_change(admission.trust)
    ports = GatewayPorts(
        admission=admission,
        telemetry=core.telemetry_store,
        subscriptions=SqlSubscriptions(core.database),
        commands=SqlCommandQueue(core.database),
        events=core.gateway_events,
        clock=core.clock,
    )
    settings = core.settings
    limits = Limits(
        max_connections=settings.mqtt_connections, max_connections_per_source=settings.mqtt_connections_per_source
    )
    gateway = Gateway(ports, limits=limits)
    core.standings.on_shut_out(gateway.kick)
    core.standings.on_restricted(gateway.kick)
    issuing.on_retirement(lambda _trusted: gateway.kick_unless(admission.trusts))
    return gateway


def gateway_tls(core: Core) -> ssl.SSLContext:
    """Return the gateway's TLS context, which trusts LDevID issuers alone."""
    files, issuing = _server_files(core), core.authorities.issuing
    context = server_context(files.certificate, files.key, issuers=issuing.trusted)
    issuing.on_change(partial(trust, context))
    return context
