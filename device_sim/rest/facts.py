"""What the device says of itself, and the few things that it lets be changed: status, state, capabilities, images."""

from collections.abc import Iterator
from enum import IntEnum

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from device_sim.errors import SecurityFloorError
from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.spare import SpareState
from device_sim.rest.device import LocalDevice
from device_sim.rest.diagnostics import DiagnosticLog
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.routes import JSON_TYPE, OCTETS_TYPE, Answer, Request, RequestDocument, Route, json_answer
from device_sim.update.progress import Progress
from protocol.evidence import LifeCycle
from protocol.geometry import Slot
from protocol.image import IMAGE_TYPE

ENABLE_APP_DEVELOPMENT = 11  # of the client's list of capabilities
_MANUFACTURING_COUNTER = "manufacturing-state"


class ManufacturingState(IntEnum):
    """How far the manufacture of a device has come; it only rises."""

    Blank = 0
    Module1Complete = 1
    DeviceComplete = 2


class _NewState(RequestDocument):
    manufacturing_state: str


class Facts:
    """Routes of the device itself.

    Args:
        device: that they are about.
        log: what happened to it.
    """

    def __init__(self, device: LocalDevice, log: DiagnosticLog) -> None:
        self._device = device
        self._machine = device.machine
        self._log = log

    def routes(self) -> Iterator[Route]:
        """Yield them."""
        yield Route("GET", "status", self._status)
        yield Route("GET", "osversion", self._os_version)
        yield Route("POST", "restart", self._restart)
        yield Route("GET", "log", lambda _: Answer(self._log.lines(), OCTETS_TYPE))
        yield Route("GET", "telemetry", lambda _: Answer(self._log.error_report(), OCTETS_TYPE))
        yield Route("DELETE", "telemetry", self._clear_errors)
        yield Route("GET", "device/security_state", self._security_state)
        yield Route("GET", "device/capabilities", self._capabilities)
        yield Route("GET", "device/manufacturing_state", self._manufacturing_state)
        yield Route("PUT", "device/manufacturing_state", self._set_manufacturing_state, content_type=JSON_TYPE)
        yield Route("GET", "images", self._images)

    def _status(self, _request: Request) -> Answer:
        return json_answer({"uptime": self._device.uptime_seconds})

    def _os_version(self, _request: Request) -> Answer:
        return json_answer({"osversion": self._machine.installed()[Slot.OS].name.partition("@")[2]})

    def _restart(self, _request: Request) -> Answer:
        self._device.restart()
        return json_answer({"restartingSystem": True})

    def _clear_errors(self, _request: Request) -> Answer:
        self._log.clear_errors()
        return Answer()

    def _security_state(self, _request: Request) -> Answer:
        rot = self._machine.rot
        key = rot.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()
        in_service = rot.lifecycle in (LifeCycle.SECURED, LifeCycle.NON_PSA_DEBUG)
        state = "SECURE" if in_service else rot.lifecycle.name
        return json_answer({"securityState": state, "deviceIdentityPublicKey": key, "deviceIdentifier": rot.device_id})

    def _capabilities(self, _request: Request) -> Answer:
        return json_answer({"device_capabilities": [ENABLE_APP_DEVELOPMENT] * self._device.has_app_development})

    def _manufacturing_state(self, _request: Request) -> Answer:
        state = ManufacturingState(self._machine.rot.counter(_MANUFACTURING_COUNTER))
        return json_answer({"manufacturingState": state.name})

    def _set_manufacturing_state(self, request: Request) -> Answer:
        wanted = request.document(_NewState).manufacturing_state
        if wanted not in ManufacturingState.__members__:
            expected = ", ".join(ManufacturingState.__members__)
            raise RequestRefusedError(
                Code.INVALID_PARAMETER, f"manufacturing state: expected one of {expected}, found {wanted[:40]!r}"
            )
        try:
            self._machine.rot.raise_counter(_MANUFACTURING_COUNTER, ManufacturingState[wanted])
        except SecurityFloorError as error:
            raise RequestRefusedError(Code.PERMISSION_DENIED, f"manufacturing state: {error}") from error
        self._device.emit("manufacturing-state", state=wanted)
        return Answer()

    def _images(self, _request: Request) -> Answer:
        components = [self._component(slot, image) for slot, image in self._machine.installed().items()]
        return json_answer(
            {
                "is_ota_update_in_progress": is_updating(self._device),
                "has_staged_updates": bool(self._device.staged),
                "restart_required": False,
                "components": components,
            }
        )

    def _component(self, slot: Slot, image: InstalledImage) -> dict[str, object]:
        return {
            "uid": image.component_id,
            "image_type": IMAGE_TYPE[slot.kind],
            "name": image.name,
            "slot": slot.value,
            "is_update_staged": slot in self._device.staged,
            "images": [{"uid": image.image_id, "name": image.name, "sha256": image.digest}],
        }


def is_updating(device: LocalDevice) -> bool:
    """Whether an update over the air is not at its end: its action is open, or what it brought is not settled."""
    is_unsettled = device.machine.spare.state in (SpareState.TRIAL, SpareState.CONFIRMED)
    return is_unsettled or Progress(device.machine, observe=lambda _: None).unfinished_action is not None
