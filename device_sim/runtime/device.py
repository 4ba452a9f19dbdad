"""One simulated device as a state machine: boot → attest → work, and rest when there is nothing to come.

`step` does what is due and says when to come back; it waits for nothing but the network's own time limits. A device
that does not boot, or that follows no catalog, rests. One that is refused asks again, ever more rarely, and gets
nowhere else. One in quarantine, let in for updates alone, polls and updates over HTTPS and says nothing over MQTT.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from device_sim.errors import BootStoppedError, CoreStoppedError, DeviceSimError
from device_sim.hardware.boot import BootReport
from device_sim.hardware.clock import Clock
from device_sim.hardware.ports import DeviceMachine
from device_sim.network.attestation import AttestationRefusedError
from device_sim.network.poll import AccessLostError, poll
from device_sim.network.ports import LinkCounts, LinkEvents, NetworkError, Sessions
from device_sim.runtime.access import NOTHING_SENT, ServiceAccess
from device_sim.runtime.backoff import Backoff
from device_sim.runtime.health import HealthJournal
from device_sim.runtime.inference import CoreFigures, CoreWatch
from device_sim.runtime.timetable import NEVER
from device_sim.runtime.trust import Trust
from device_sim.runtime.work import Behaviour, Emit, Work, tell_attested
from device_sim.sensors.ports import Sensors
from device_sim.update.client import UpdateClient
from device_sim.update.deferring import LETS_BEGIN, UpdateListener
from device_sim.update.installer import Installer
from device_sim.update.progress import Progress
from protocol.geometry import Core
from protocol.identity import Access
from protocol.learned_backup import LEARNED_ORDERS
from protocol.messages import CHECK_UPDATE, ActionReport, ActionState
from protocol.updates import Order
from protocol.voucher import Voucher, public_keys


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a device needs from outside.

    Attributes:
        network: gives connections.
        trust: what the device believes by a voucher.
        clock: of the host; only `monotonic` is used.
        rng: seeded, for jitter.
        emit: takes an event and its fields.
        wake: asks for a step now; any thread may call it.
        application: hears of updates before they begin.
    """

    network: Sessions
    trust: Callable[[Voucher], Trust]
    clock: Clock
    rng: random.Random
    emit: Emit
    wake: Callable[[], None]
    application: UpdateListener = LETS_BEGIN


class Device:
    """One device; stepped by one thread at a time.

    Args:
        machine: opened, not booted.
        sensors: what it senses with.
        behaviour: periods and pauses.
        surroundings: everything else.
    """

    def __init__(
        self, machine: DeviceMachine, sensors: Sensors, *, behaviour: Behaviour, surroundings: Surroundings
    ) -> None:
        self._machine = machine
        self._sensors = sensors
        self._behaviour = behaviour
        self._around = surroundings
        self._emit = partial(surroundings.emit, device=machine.device_id)
        self._phase: Callable[[float], float] = self._boot
        self._access: ServiceAccess | None = None
        self._work: Work | None = None
        self._health = HealthJournal(machine.storage, length=behaviour.health_window, emit=self._emit)
        self._watches = {
            core: CoreWatch(
                core,
                machine,
                sensors,
                period_seconds=behaviour.inference_period_seconds,
                hear=self._health.hear,
            )
            for core in machine.cores
            if behaviour.infers
        }
        self._refusals = self._failures = 0

    @property
    def device_id(self) -> str:
        """The device's id."""
        return self._machine.device_id

    @property
    def counts(self) -> LinkCounts:
        """What was sent over MQTT so far."""
        return NOTHING_SENT if self._access is None else self._access.counts

    @property
    def figures(self) -> dict[Core, CoreFigures]:
        """What each core that infers did so far."""
        return {core: watch.figures for core, watch in self._watches.items()}

    def step(self, now: float) -> float:
        """Do what is due.

        Args:
            now: seconds on the monotonic clock.

        Returns:
            When to be stepped again; infinity when the device rests.
        """
        return self._phase(now)

    @property
    def polls_alone_until(self) -> float:
        """Until when it has nothing to do but to poll; 0 where it is not let in."""
        return self._work.polls_alone_until if self._work is not None and self._phase == self._live else 0.0

    @property
    def holds(self) -> tuple[str, Order] | None:
        """The action with which it waits for another order, and the one that it obeys; None where there is none."""
        return None if self._work is None else self._work.holds

    def poll_at(self, due: float) -> None:
        """Have it poll at a time, after somebody else has found that its polls before that brought nothing."""
        self._parts()[1].poll_at(due)

    def set_load(self, factor: float) -> None:
        """Have the cores infer so many times as often as they usually do; between two steps."""
        for watch in self._watches.values():
            watch.set_period(self._behaviour.inference_period_seconds / factor)

    def let_go(self) -> None:
        """Close the HTTPS connection until it is needed again; the MQTT connection stays."""
        if self._access is not None:
            self._access.let_go()

    def drain(self, timeout_seconds: float) -> None:
        """Wait, within a time, until the gateway has acknowledged what was sent."""
        if self._access is not None:
            self._access.drain(timeout_seconds)

    def close(self) -> None:
        """Disconnect, count for the last time and let go of the folder; no step may follow."""
        if self._access is not None:
            self._access.close()
        if self._work is not None:
            self._work.count()
        self._health.keep()
        self._machine.close()

    def _boot(self, now: float) -> float:
        try:
            report = self._machine.boot()
        except BootStoppedError as error:
            self._emit("boot-stopped", stage=error.stage, expected=error.expected, found=error.found)
            return self._rest()
        self._tell(report)
        voucher = self._machine.voucher
        if voucher is None:
            self._emit("unclaimed", reason=report.voucher_refusal or "expected a voucher, found none")
            return self._rest()
        self._follow(voucher)
        self._phase = self._attest
        return now + self._around.rng.uniform(0, self._behaviour.start_spread_seconds)

    def _tell(self, report: BootReport) -> None:
        self._emit("booted", components=[part.version for part in report.components])
        for core, error in report.stopped_cores.items():
            self._emit("core-stopped", core=core.value, reason=str(error))
        if report.reverted is not None:
            cut = report.reverted
            self._emit("trial-cut", slot=cut.slot.value, digest=cut.digest, reason=cut.reason)
        if report.is_claimed and report.voucher_refusal:
            self._emit("voucher-refused", reason=report.voucher_refusal)

    def _follow(self, voucher: Voucher) -> None:
        """Make the parts that live by the voucher's roots and keys."""
        trust = self._around.trust(voucher)
        events = LinkEvents(
            connected=partial(self._emit, "connected"),
            disconnected=lambda code: self._emit("disconnected", code=code),
            command=self._on_command,
        )
        access = ServiceAccess(self._machine, voucher, trust=trust, network=self._around.network, events=events)
        progress = Progress(self._machine, observe=self._on_report)
        progress.manifest_due()
        installer = Installer(
            self._machine,
            progress,
            package_keys=public_keys(voucher.package_keys),
            look=self._look,
            reach_service=self._reach_service,
            verify=trust.verify,
        )
        client = UpdateClient(
            self._machine,
            trust,
            installer,
            progress,
            transport=lambda: access.transport,
            retry_seconds=Backoff(*self._behaviour.retry_seconds, self._around.rng).pause_seconds,
            application=self._around.application,
        )
        self._access = access
        self._work = Work(
            self._machine,
            access,
            client=client,
            progress=progress,
            watches=self._watches,
            health=self._health,
            behaviour=self._behaviour,
            rng=self._around.rng,
            emit=self._emit,
        )

    def _attest(self, now: float) -> float:
        access, work = self._parts()
        try:
            validity = access.attest()
        except AttestationRefusedError as error:
            self._refusals += 1
            self._emit("refused", reason=str(error))
            return now + Backoff(*self._behaviour.refused_seconds, self._around.rng).pause_seconds(self._refusals)
        except DeviceSimError as error:
            self._failures += 1
            self._emit("retry", what="attest", attempt=self._failures, reason=str(error))
            wanted = error.retry_after_seconds if isinstance(error, NetworkError) else 0.0
            pause = Backoff(*self._behaviour.retry_seconds, self._around.rng).pause_seconds(self._failures)
            return now + wanted + pause
        self._refusals = self._failures = 0
        tell_attested(self._emit, validity)
        work.begin(now, validity)
        self._phase = self._live
        return now

    def _live(self, now: float) -> float:
        _, work = self._parts()
        try:
            return work.step(now)
        except AccessLostError as error:
            self._emit("access-lost", reason=str(error))
            self._phase = self._attest
            return now + Backoff(*self._behaviour.retry_seconds, self._around.rng).pause_seconds(1)

    def _rest(self, _now: float = 0.0) -> float:
        self._phase = self._rest
        return NEVER

    def _parts(self) -> tuple[ServiceAccess, Work]:
        if self._access is None or self._work is None:
            raise AssertionError("a device attests and works only with a voucher")
        return self._access, self._work

    def _look(self, core: Core) -> np.ndarray:
        card = self._machine.cores[core].card
        if card is None:
            raise CoreStoppedError(f"{core}: expected a model that looks, found none")
        return self._sensors.take(core, card.input, at_seconds=self._machine.time.now)

    def _reach_service(self) -> None:
        access, _ = self._parts()
        before = access.reach
        validity = access.attest()
        tell_attested(self._emit, validity)
        if before is Access.FULL and validity.access is not before:
            raise AttestationRefusedError("expected full access as before, found access to updates alone")
        poll(access.transport)

    def _on_command(self, name: str, _payload: bytes) -> None:
        if self._work is None:
            return
        if name == CHECK_UPDATE:
            self._work.request_poll()
            self._around.wake()
        elif name == LEARNED_ORDERS:
            self._work.request_orders()
            self._around.wake()

    def _on_report(self, report: ActionReport) -> None:
        event = "reverted" if report.state is ActionState.REVERTED else "update"
        fields = {"action_id": report.action_id, "state": report.state.value, "detail": report.detail}
        if report.cause is not None:
            fields["cause"] = report.cause.value
        self._emit(event, **fields)
        if self._work is not None:
            self._work.heed(report)
