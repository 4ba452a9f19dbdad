"""The device behind the interface: its machine, and what of its state only lasts until it restarts.

Nothing here is a port: whoever calls a method has the machine to himself (`DeviceServer.answer`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from device_sim.errors import BootStoppedError
from device_sim.hardware.boot import BootReport
from device_sim.hardware.clock import Clock
from device_sim.hardware.installed import InstalledImage
from device_sim.hardware.machine import Machine
from device_sim.rest.errors import Code, RequestRefusedError
from device_sim.runtime.work import Emit
from protocol.errors import MalformedError
from protocol.geometry import HOME_BYTES, Core, ImageKind, Slot
from protocol.identity import parse_guid
from protocol.image import digest_of


@dataclass(slots=True)
class _Awake:
    """What a restart forgets.

    Attributes:
        since: seconds on the host's monotonic clock.
        application_runs: whether the A7 application was not stopped.
        staged: packages that wait to be installed, verified when they came, by slot.
        peak_bytes: most memory that the real-time cores were given at once.
    """

    since: float
    application_runs: bool = True
    staged: dict[Slot, bytes] = field(default_factory=dict)
    peak_bytes: int = 0


class LocalDevice:
    """One simulated device.

    Args:
        machine: open, not booted.
        clock: of the host.
        emit: takes the device's events.
        stop: called when the device's boot has stopped: nothing of it answers from then on.
    """

    def __init__(self, machine: Machine, *, clock: Clock, emit: Emit, stop: Callable[[], None]) -> None:
        self.machine = machine
        self.emit = emit
        self.failure: BootStoppedError | None = None
        self._clock = clock
        self._stop = stop
        self._awake = _Awake(clock.monotonic())

    def boot(self) -> None:
        """Boot for the first time, or again as after `restart`.

        Raises:
            BootStoppedError: the measured boot refused an image; nothing runs.
        """
        self._tell(self.machine.reboot())
        self._awake = _Awake(self._clock.monotonic())
        self.note_memory()

    def restart(self) -> None:
        """Restart the device; where the boot stops it is gone, as on the chip, and `failure` says why."""
        try:
            self.boot()
        except BootStoppedError as error:
            self.emit("boot-stopped", stage=error.stage, expected=error.expected, found=error.found)
            self.failure = error
            self._stop()

    @property
    def uptime_seconds(self) -> int:
        """Since the last boot."""
        return int(self._clock.monotonic() - self._awake.since)

    @property
    def staged(self) -> dict[Slot, bytes]:
        """Packages that wait to be installed."""
        return self._awake.staged

    @property
    def has_app_development(self) -> bool:
        """Whether the device is its developer's."""
        return self.machine.rot.has_app_development

    def images(self) -> Mapping[Slot, InstalledImage]:
        """Return what lies in the slots that hold applications, firmware and models."""
        return {slot: image for slot, image in self.machine.installed().items() if slot in HOME_BYTES}

    def slots_of(self, unverified_component_id: str) -> tuple[Slot, ...]:
        """Return the slots that hold a component.

        Raises:
            RequestRefusedError: the id is no GUID.
        """
        component_id = component_of(unverified_component_id)
        return tuple(slot for slot, image in self.images().items() if image.component_id == component_id)

    def is_running(self, slot: Slot) -> bool:
        """Whether what lies in a slot runs."""
        if slot.core is Core.A7:
            return self._awake.application_runs
        cell = self.machine.cores[slot.core]
        return cell.is_running if slot.kind is ImageKind.MODEL else cell.firmware is not None

    def start(self, core: Core) -> None:
        """Start a core, or the application. Raises as `Machine.restart`."""
        if core is Core.A7:
            self._awake.application_runs = True
        else:
            self.machine.restart(core)
        self.note_memory()

    def stop(self, core: Core) -> None:
        """Stop a core, or the application; its sibling runs on."""
        if core is Core.A7:
            self._awake.application_runs = False
        else:
            self.machine.cores[core].stop()

    def sideload(self, slot: Slot, package: bytes, *, starts: bool) -> None:
        """Bring a package into its slot; its core runs it, or is stopped.

        On a developer's device straight into the slot, where alone a development image runs. On any other through the
        spare, as an update comes: a power cut leaves the old image or the new one.

        Raises:
            DeviceSimError: as `Machine.sideload`, or as `Machine.start_trial` and `Machine.confirm`.
        """
        if self.has_app_development:
            self.machine.sideload(slot, package)
        else:
            self._bring_through_spare(slot, package)
        if not starts:
            self.stop(slot.core)
        elif slot.core is Core.A7:
            self.start(slot.core)
        self.note_memory()

    def memory(self) -> dict[Core, dict[str, int]]:
        """Return what each real-time core has given to what, bytes."""
        return {
            core: {each.purpose: each.size_bytes for each in cell.memory.allocations}
            for core, cell in self.machine.cores.items()
        }

    def note_memory(self) -> int:
        """Keep the most that the real-time cores were given at once since the boot; return it, bytes."""
        given = sum(sum(uses.values()) for uses in self.memory().values())
        self._awake.peak_bytes = max(self._awake.peak_bytes, given)
        return self._awake.peak_bytes

    def _bring_through_spare(self, slot: Slot, package: bytes) -> None:
        there = self.machine.spare_begin(slot, digest_of(package), len(package))
        if there < len(package):
            self.machine.spare_write(there, package[there:])
        self.machine.start_trial(slot)
        self.machine.confirm(slot)

    def _tell(self, report: BootReport) -> None:
        self.emit("booted", components=[part.version for part in report.components])
        for core, error in report.stopped_cores.items():
            self.emit("core-stopped", core=core.value, reason=str(error))
        if report.reverted is not None:
            self.emit("trial-cut", slot=report.reverted.slot.value, reason=report.reverted.reason)
        if report.voucher_refusal:
            self.emit("voucher-refused", reason=report.voucher_refusal)


def component_of(unverified: str) -> str:
    """Return a component id in its one spelling.

    Raises:
        RequestRefusedError: it is no GUID.
    """
    try:
        return parse_guid(unverified)
    except MalformedError as error:
        raise RequestRefusedError(Code.INVALID_PARAMETER, f"component id: {error}") from error
