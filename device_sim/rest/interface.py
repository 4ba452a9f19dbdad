"""The whole interface of one device."""

from collections.abc import Iterator

from device_sim.rest.applications import Applications
from device_sim.rest.certstore import CertificateStore
from device_sim.rest.device import LocalDevice
from device_sim.rest.diagnostics import DiagnosticLog
from device_sim.rest.facts import Facts
from device_sim.rest.network import Network
from device_sim.rest.routes import Route, Router
from device_sim.rest.sideloading import Sideloading
from device_sim.rest.wifi import Wifi


def interface_of(device: LocalDevice, log: DiagnosticLog) -> Router:
    """Return every route of a device.

    Args:
        device: booted.
        log: hears its events.
    """
    return Router(tuple(_routes(device, log)))


def _routes(device: LocalDevice, log: DiagnosticLog) -> Iterator[Route]:
    yield from Facts(device, log).routes()
    yield from Sideloading(device).routes()
    yield from Applications(device).routes()
    yield from CertificateStore(device.machine.storage).routes()
    yield from Network(device.machine).routes()
    yield from Wifi(device.machine.storage).routes()
