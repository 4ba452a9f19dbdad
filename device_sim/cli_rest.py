"""`device-sim rest`: one device boots and answers its device-local interface, until a signal or a boot that stops."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from device_sim.adapters.clock import WallClock
from device_sim.cli_folders import NoInference, device_folders
from device_sim.cli_signals import stop_signals
from device_sim.errors import DeviceSimError
from device_sim.hardware.files import replace_file
from device_sim.hardware.machine import Machine
from device_sim.rest.certificate import server_context
from device_sim.rest.device import LocalDevice
from device_sim.rest.diagnostics import DiagnosticLog
from device_sim.rest.interface import interface_of
from device_sim.rest.server import LOOPBACK, DeviceServer
from device_sim.runtime.events import EventLog

CERTIFICATE_FILE = "rest.pem"
_POLL_SECONDS = 0.1


class OneDeviceError(DeviceSimError):
    """The interface is that of one device, and several were named."""


def serve_device(path: Path, *, port: int, certificate_file: Path | None) -> None:
    """Boot a device and serve its interface; its events go to stdout.

    Args:
        path: the device's folder.
        port: of the loopback interface; 0 takes a free one, which the event `listening` names.
        certificate_file: gets the server's certificate, PEM; None: rest.pem in the device's folder.

    Raises:
        DeviceSimError: the folder is none, or in use.
        BootStoppedError: the measured boot refused an image, at the start or when the device was restarted.
        OSError: the port is taken.
    """
    folder, *others = device_folders([path])
    if others:
        raise OneDeviceError(f"{path}: expected one device, found {1 + len(others)}")
    clock, log = WallClock(), DiagnosticLog()
    events = EventLog(sys.stdout, now=clock.now, listeners=[log.hear])
    machine = Machine.open(folder, clock=clock, pool=NoInference())
    try:
        emit = partial(events.emit, device=machine.device_id)
        with stop_signals() as stopping:
            device = LocalDevice(machine, clock=clock, emit=emit, stop=stopping.set)
            device.boot()
            context, certificate = server_context(folder, clock.now())
            replace_file(certificate_file or folder / CERTIFICATE_FILE, certificate, mode=0o644)
            with _serving(
                DeviceServer(
                    port,
                    context=context,
                    router=interface_of(device, log),
                    on_crash=lambda error: emit("crashed", reason=f"{type(error).__name__}: {error}"),
                    monotonic=clock.monotonic,
                )
            ) as server:
                emit("listening", url=f"https://{LOOPBACK}:{server.port}")
                stopping.wait()
        if device.failure is not None:
            raise device.failure
    finally:
        machine.close()


@contextmanager
def _serving(server: DeviceServer) -> Iterator[DeviceServer]:
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="rest")
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
