"""Applications that start and stop: the real-time cores, and the A7 application as far as it is modelled.

A component is the application, a core's firmware or a core's model; to start or stop one is to start or stop its core.
"""

from collections.abc import Iterator
from typing import Literal

from device_sim.errors import DeviceSimError
from device_sim.learning.states import LearnedStates
from device_sim.rest.device import LocalDevice
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.rest.routes import JSON_TYPE, Answer, Request, RequestDocument, Route, json_answer
from protocol.geometry import KIB, Core, ImageKind, Slot
from protocol.learned_state import MAX_STATE_BYTES


class _Trigger(RequestDocument):
    trigger: Literal["start", "startDebug", "stop"]


class Applications:
    """Routes of applications.

    Args:
        device: that they run on.
    """

    def __init__(self, device: LocalDevice) -> None:
        self._device = device

    def routes(self) -> Iterator[Route]:
        """Yield them."""
        yield Route("GET", "app/status/*", self._status)
        yield Route("PATCH", "app/status/*", self._trigger, content_type=JSON_TYPE)
        yield Route("GET", "app/quota/*", self._quota)
        yield Route("GET", "stats/memory/groups/applications", self._memory)

    def _status(self, request: Request) -> Answer:
        return self._state_of(self._device.slots_of(request.parameter))

    def _trigger(self, request: Request) -> Answer:
        trigger = request.document(_Trigger).trigger
        if not self._device.has_app_development:
            raise RequestRefusedError(Code.NOT_PERMITTED, "trigger: expected the AppDevelopment capability, found none")
        slots = self._device.slots_of(request.parameter)
        if not slots:
            raise RequestRefusedError(Code.NOT_PRESENT, "trigger: expected a component of the device, found another")
        if trigger == "startDebug":
            raise RequestRefusedError(Code.NO_DEBUG_SERVER, "trigger: expected start or stop, found startDebug")
        for core in dict.fromkeys(slot.core for slot in slots):
            if trigger == "stop":
                self._device.stop(core)
            else:
                self._start(core)
        self._device.emit(f"application-{trigger}", slots=[slot.value for slot in slots])
        return self._state_of(slots)

    def _start(self, core: Core) -> None:
        try:
            self._device.start(core)
        except DeviceSimError as error:
            self._device.emit("core-stopped", core=core.value, reason=str(error))
            raise RequestRefusedError(Code.INVALID_IMAGE, str(error)) from error

    def _state_of(self, slots: tuple[Slot, ...]) -> Answer:
        if not slots:
            return json_answer({"state": "notPresent"})
        runs = all(self._device.is_running(slot) for slot in slots)
        return json_answer({"state": "running" if runs else "stopped"})

    def _quota(self, request: Request) -> Answer:
        slots = self._device.slots_of(request.parameter)
        if not slots:
            raise RequestRefusedError(Code.NO_QUOTA, "quota: expected a component of the device, found another")
        learns = [slot for slot in slots if self._learns(slot)]
        states = LearnedStates(self._device.machine.storage)
        used = sum(len(states.recall(slot.core) or b"") for slot in learns)
        return json_answer({"UsageKB": -(-used // KIB), "LimitKB": len(learns) * MAX_STATE_BYTES // KIB})

    def _learns(self, slot: Slot) -> bool:
        """Whether a slot's component keeps something over an update: a learning template does, nothing else."""
        is_model = slot.kind is ImageKind.MODEL
        return is_model and self._device.machine.cores[slot.core].learner is not None

    def _memory(self, _request: Request) -> Answer:
        uses = self._device.memory()
        now = sum(sum(each.values()) for each in uses.values())
        return json_answer(
            {
                "memoryStats": {
                    "currentMemoryUsageInBytes": now,
                    "userModeMemoryUsageInBytes": now,
                    "peakUserModeMemoryUsageInBytes": self._device.note_memory(),
                    "cores": {core.value: each for core, each in uses.items()},
                }
            }
        )
