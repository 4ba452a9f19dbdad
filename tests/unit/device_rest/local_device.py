"""A simulated device behind its device-local interface, asked without a network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from azuresphere_imagemetadata.image import Image

from device_sim.hardware.machine import Machine
from device_sim.rest.device import LocalDevice
from device_sim.rest.diagnostics import DiagnosticLog
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.interface import interface_of
from device_sim.rest.routes import Answer, Request, Router, refusal_answer
from tests.unit.device_hardware.device_builder import DeviceBuilder, ManualClock


@dataclass(slots=True)
class Local:
    """A device that has booted, and its interface."""

    machine: Machine
    clock: ManualClock
    events: list[dict[str, object]] = field(default_factory=list)
    stops: int = 0
    device: LocalDevice = field(init=False)
    router: Router = field(init=False)

    def __post_init__(self) -> None:
        log = DiagnosticLog()

        def emit(event: str, /, **fields: object) -> None:
            self.events.append({"event": event, **fields})
            log.hear(self.events[-1])

        self.device = LocalDevice(self.machine, clock=self.clock, emit=emit, stop=self.count_stop)
        self.device.boot()
        self.router = interface_of(self.device, log)

    def count_stop(self) -> None:
        self.stops += 1

    def answer(self, method: str, path: str, body: bytes | Mapping[str, object] = b"") -> Answer:
        """Ask as the server does."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            route, parameters = self.router.find(method, f"/{path}")
            return route.handle(Request(parameters, content))
        except RequestRefusedError as error:
            return refusal_answer(error)

    def ask(self, method: str, path: str, body: bytes | Mapping[str, object] = b"") -> Any:
        """Return what a request is answered with, which must be a success."""
        answer = self.answer(method, path, body)
        assert answer.status == HTTPStatus.OK, answer
        return json.loads(answer.body)

    def refusal(self, method: str, path: str, body: bytes | Mapping[str, object] = b"") -> tuple[int, Code]:
        """Return the status and the code of a refusal."""
        answer = self.answer(method, path, body)
        content = json.loads(answer.body)
        assert content.keys() == {"error"}
        return answer.status, Code(content["error"])

    def names(self) -> dict[str, str]:
        """What the interface says lies in the slots."""
        return {each["slot"]: each["name"] for each in self.ask("GET", "images")["components"]}


def local_device(folder: Path, *, develops: bool = True) -> tuple[Local, DeviceBuilder]:
    """A claimed device with factory images; its developer's, or not."""
    builder = DeviceBuilder(folder)
    machine = builder.ready()
    machine.rot.set_app_development(allowed=develops)
    return Local(machine, builder.clock), builder


def by_anybody(package: bytes) -> bytes:
    """The same image, signed by the development key that is in everybody's hands."""
    return bytes(Image(package).serialize())
