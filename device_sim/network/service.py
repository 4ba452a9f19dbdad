"""A device's connections to a real service: addresses from its service.json, TLS, one context per credential."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from device_sim.errors import DeviceSimError
from device_sim.hardware.clock import Clock
from device_sim.hardware.machine import Machine
from device_sim.network.https import HttpLimits, HttpsTransport
from device_sim.network.loop import LinkLoop
from device_sim.network.mqtt import Gateway, PahoLink
from device_sim.network.ports import LinkEvents
from device_sim.network.quality import NetworkPath
from device_sim.network.shaped import ShapedTransport
from device_sim.network.tls import Credential, client_context, show_credential
from protocol.identity import DeviceId
from protocol.voucher import Voucher

DEFAULT_LIMITS = HttpLimits()


class ServiceFileError(DeviceSimError):
    """The service's file is missing or does not say where the service is."""


class Endpoints(BaseModel):
    """The part of service.json that devices need; the rest is the operator's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    device_url: str
    mqtt_host: str = Field(min_length=1)
    mqtt_port: int = Field(ge=1, le=65535)

    @field_validator("device_url")
    @classmethod
    def _is_https(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"expected https://HOST:PORT, found {value[:80]}")
        return value


def read_service_file(path: Path) -> Endpoints:
    """Read where the service listens.

    Raises:
        ServiceFileError: the file is missing, unreadable or not of the expected form.
    """
    try:
        return Endpoints.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ServiceFileError(f"{path}: expected the file of a running service, found {error.strerror}") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ServiceFileError(f"{path}: {where}: {first['msg']}") from error


@dataclass(frozen=True, slots=True)
class TlsNetwork:
    """The real `Network` of one device.

    Attributes:
        endpoints: where the service listens.
        clock: for deadlines.
        loop: waits for the device's MQTT connection.
        path: lies between the device and the service.
        limits: how long the device waits for HTTPS.
    """

    endpoints: Endpoints
    clock: Clock
    loop: LinkLoop
    path: NetworkPath
    limits: HttpLimits = DEFAULT_LIMITS

    def attestation(self, machine: Machine, voucher: Voucher) -> ShapedTransport:
        """Return HTTPS with the IDevID, for the attestation endpoint alone."""
        context = client_context(voucher.tls_root)
        machine.rot.authenticate(context, machine.idevid_chain)
        return self._shaped(self._https(context))

    def session(
        self, device_id: DeviceId, voucher: Voucher, credential: Credential, events: LinkEvents
    ) -> "TlsSession":
        """Return the connections of an attested device."""
        context = client_context(voucher.tls_root)
        show_credential(context, credential)
        https = self._https(context)
        gateway = Gateway(self.endpoints.mqtt_host, self.endpoints.mqtt_port, self.loop, self.path)
        return TlsSession(
            context, https, self._shaped(https), PahoLink(device_id, context, gateway=gateway, events=events)
        )

    def _https(self, context: ssl.SSLContext) -> HttpsTransport:
        return HttpsTransport(
            self.endpoints.device_url,
            context,
            monotonic=self.clock.monotonic,
            limits=self.limits,
            meter=self.path.meter,
        )

    def _shaped(self, https: HttpsTransport) -> ShapedTransport:
        return ShapedTransport(https, self.path, limit_seconds=self.limits.request_seconds)


@dataclass(frozen=True, slots=True)
class TlsSession:
    """The real `Session`: both connections share one TLS context.

    Attributes:
        context: shows the operational certificate.
        https: to the device API, as it is without a network in between.
        transport: HTTPS to the device API.
        link: MQTT to the gateway.
    """

    context: ssl.SSLContext
    https: HttpsTransport
    transport: ShapedTransport
    link: PahoLink

    def renew(self, credential: Credential) -> None:
        """Show another certificate from now on; HTTPS connects anew, the link when it is told to."""
        show_credential(self.context, credential)
        self.https.renew()

    def close(self) -> None:
        """End both connections for good."""
        self.link.stop()
        self.transport.close()
