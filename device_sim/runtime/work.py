"""The working life of an attested device: poll, update, infer, report, renew, each by its timetable."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta

from device_sim.errors import DeviceSimError
from device_sim.hardware.ports import DeviceMachine
from device_sim.learning.backup import LearnedBackup
from device_sim.learning.learner import Learner
from device_sim.network.attestation import AttestationRefusedError
from device_sim.network.poll import AccessLostError, poll
from device_sim.network.ports import NetworkError
from device_sim.runtime.access import ServiceAccess, Validity
from device_sim.runtime.backoff import Backoff
from device_sim.runtime.health import HealthJournal
from device_sim.runtime.inference import CoreWatch
from device_sim.runtime.timetable import NEVER, Timetable
from device_sim.update.client import UpdateClient
from device_sim.update.progress import Progress, ReportRefusedError
from protocol.document import canonical_json
from protocol.geometry import Core
from protocol.health import HEALTH_STREAM, WINDOW
from protocol.identity import Access
from protocol.messages import INFERENCE_STREAM, ActionReport, ActionState, Cause
from protocol.shadow import ShadowCounts
from protocol.topics import telemetry_topic
from protocol.updates import Order

Emit = Callable[..., None]
RENEWAL_JITTER = 0.1  # share of half a certificate's life
FIRST_RENEWAL_JITTER = 0.9  # after a boot, so that a fleet that starts at once does not renew at once ever after
HEALTH_LOOKS = 4  # in a window: to end windows, and to keep what was summed
WHAT_RUNS_CHANGED = frozenset({ActionState.CONFIRMED, ActionState.REVERTED})


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a device spends its time.

    Attributes:
        infers: whether its cores run inference.
        inference_period_seconds: one event per core and period.
        waits_for_flash: whether an update goes on only when its flash work and its trial are done, in device time.
        counts_period_seconds: between two counts events.
        start_spread_seconds: devices that boot together attest within this time.
        retry_seconds: pause after the first failure, and longest pause.
        refused_seconds: the same, after a refusal by the service.
        learned_period_seconds: shortest time between two backups of what a core learned.
        health_window: that the answers of a model are summed up over for the service.
    """

    infers: bool = True
    inference_period_seconds: float = 1.0
    waits_for_flash: bool = True
    counts_period_seconds: float = 10.0
    start_spread_seconds: float = 1.0
    retry_seconds: tuple[float, float] = (1.0, 60.0)
    refused_seconds: tuple[float, float] = (10.0, 600.0)
    learned_period_seconds: float = 6 * 3600.0
    health_window: timedelta = WINDOW


class Work:
    """What one device does while it is let in.

    Args:
        machine: has booted.
        access: has been attested.
        client: runs updates.
        progress: holds reports that wait.
        watches: the cores that infer.
        health: what they come to.
        behaviour: periods and pauses.
        rng: seeded, for jitter.
        emit: takes events.
    """

    def __init__(
        self,
        machine: DeviceMachine,
        access: ServiceAccess,
        *,
        client: UpdateClient,
        progress: Progress,
        watches: Mapping[Core, CoreWatch],
        health: HealthJournal,
        behaviour: Behaviour,
        rng: random.Random,
        emit: Emit,
    ) -> None:
        self._machine = machine
        self._access = access
        self._client = client
        self._progress = progress
        self._watches = watches
        self._health = health
        self._dropped = 0
        self._behaviour = behaviour
        self._rng = rng
        self._emit = emit
        self._retry = Backoff(*behaviour.retry_seconds, rng)
        self._failures: dict[str, int] = {}
        self._update: Iterator[float] | None = None
        self._poll_requested = self._orders_requested = False
        self._timetable = Timetable()
        self._learned: LearnedBackup | None = None

    def begin(self, now: float, validity: Validity) -> None:
        """Start over after an attestation; an action that a restart interrupted goes on."""
        self._failures.clear()
        self._timetable.set("mail", self._send_mail, due=now)
        self._timetable.set("poll", self._poll, due=now)
        self._timetable.set("learned", self._back_up_learned, due=now)
        self._timetable.set(
            "renew", self._renew, due=now + renewal_seconds(validity, self._rng, jitter=FIRST_RENEWAL_JITTER)
        )
        self._timetable.set("counts", self._count, due=now + self._behaviour.counts_period_seconds)
        if self._update is None and self._progress.unfinished_action is not None:
            self._update = self._client.run(self._progress.unfinished_action, self._progress.attempt)
        self._timetable.set("update", self._go_on_with_update, due=NEVER if self._update is None else now)
        self._timetable.set("shadow", self._look_at_shadow, due=now)
        # Both cores begin together: where both rest, there is room for flash work.
        first = now + self._rng.uniform(0, self._behaviour.inference_period_seconds)
        self._timetable.set("health", self._tell_health, due=now if self._watches else NEVER)
        for core, watch in self._watches.items():
            self._timetable.set(core.value, self._infer_with(watch), due=first)

    def step(self, now: float) -> float:
        """Do what is due; return when something is due again.

        Raises:
            AccessLostError: the service does not take the certificate any more.
        """
        if self._poll_requested:
            self._poll_requested = False
            self._timetable.advance("poll", now)
        if self._orders_requested:
            self._orders_requested = False
            self._ask_for_orders(now)
        return self._timetable.run(now)

    def request_poll(self) -> None:
        """Have the next step poll; any thread may ask."""
        self._poll_requested = True

    def request_orders(self) -> None:
        """Have the next step ask what is ordered of what the cores learned; any thread may ask."""
        self._orders_requested = True

    @property
    def polls_alone_until(self) -> float:
        """Until when it has nothing to do but to poll."""
        return 0.0 if self._poll_requested or self._orders_requested else self._timetable.due_apart_from("poll")

    @property
    def holds(self) -> tuple[str, Order] | None:
        """The action with which it waits for another order, and the one that it obeys; None where there is none."""
        return self._progress.holds

    def poll_at(self, due: float) -> None:
        """Have it poll at a time, after somebody else has found that its polls before that brought nothing."""
        self._timetable.set("poll", self._poll, due=due)

    def heed(self, report: ActionReport) -> None:
        """Have the next step send a new report; once another image runs, a device in quarantine attests with it."""
        self._timetable.advance("mail", 0.0)
        if report.state is ActionState.CONFIRMED:
            self._ask_for_orders(0.0)
        if report.state in WHAT_RUNS_CHANGED and self._access.reach is Access.UPDATE_ONLY:
            self._timetable.advance("renew", 0.0)

    def count(self) -> None:
        """Emit what was sent, inferred and done to the flash so far."""
        counts = self._access.counts
        self._emit(
            "counts",
            sent=counts.sent,
            acknowledged=counts.acknowledged,
            dropped=counts.dropped,
            flash_operations=self._machine.time.flash_operations,
            cores={core.value: asdict(watch.figures) for core, watch in self._watches.items()},
        )

    def _poll(self, now: float) -> float:
        if self._update is not None:
            return NEVER  # the update polls when it ends
        try:
            reply = poll(self._access.transport)
        except NetworkError as error:
            return now + self._pause_after("poll", error)
        self._failures.pop("poll", None)
        held = self._progress.holds
        wanted = None if reply.action_id is None else (reply.action_id, reply.order)
        if wanted is None and held is not None:
            self._take_up(held[0], self._progress.attempt, now)  # to find out that it was taken back
        elif reply.action_id is not None and wanted != held:  # else it does already what it is to do
            self._take_up(reply.action_id, reply.attempt, now)
        return now + reply.next_poll_seconds

    def _take_up(self, action_id: str, attempt: int, now: float) -> None:
        self._update = self._client.run(action_id, attempt)
        self._timetable.advance("update", now)

    def _look_at_shadow(self, now: float) -> float:
        """Report what a model in shadow came to, once that is known; one whose core was restarted begins anew."""
        held, shadow = self._progress.holds, self._machine.shadow
        if held is None or held[1] is not Order.SHADOW or self._progress.has_compared or self._update is not None:
            return NEVER
        if shadow is None:
            self._take_up(held[0], self._progress.attempt, now)
            return NEVER
        result = shadow.result
        if result is None and not shadow.refusal:
            return shadow.due
        self._machine.end_shadow()
        if result is not None:
            self._progress.report(ActionState.SHADOWING, shadow=result, detail=_summary(result))
        else:
            self._progress.report(ActionState.FAILED, cause=Cause.REQUIREMENT, detail=shadow.refusal)
        return NEVER

    def _go_on_with_update(self, now: float) -> float:
        pause = None if self._update is None else next(self._update, None)
        if pause is not None:
            busy = self._machine.time.busy_seconds if self._behaviour.waits_for_flash else 0.0
            return now + max(pause, busy)
        self._update = None
        self._timetable.advance("shadow", now)
        self._timetable.advance("poll", now + self._behaviour.retry_seconds[0])
        return NEVER

    def _send_mail(self, now: float) -> float:
        if not self._progress.has_mail:
            return NEVER
        try:
            self._progress.send(self._access.transport)
        except NetworkError as error:
            return now + self._pause_after("mail", error)
        except ReportRefusedError as error:
            self._emit("report-refused", reason=str(error))
            return now
        self._failures.pop("mail", None)
        return NEVER

    def _ask_for_orders(self, due: float) -> None:
        if self._learned is not None:
            self._learned.ask()
        self._timetable.advance("learned", due)

    def _back_up_learned(self, now: float) -> float:
        if not self._learners():
            return NEVER  # until an update brings something to learn by
        if self._access.reach is not Access.FULL:
            return now + self._behaviour.learned_period_seconds
        self._learned = self._learned or self._new_backup()
        try:
            pause = self._learned.run(self._access.transport)
        except NetworkError as error:
            return now + self._pause_after("learned", error)
        self._failures.pop("learned", None)
        return now + pause

    def _new_backup(self) -> LearnedBackup:
        return LearnedBackup(
            self._machine.storage,
            lambda: self._machine.clock.now(),  # noqa: PLW0108 - a boot brings another clock
            learners=self._learners,
            period=timedelta(seconds=self._behaviour.learned_period_seconds),
            emit=self._emit,
        )

    def _learners(self) -> dict[Core, Learner]:
        return {name: core.learner for name, core in self._machine.cores.items() if core.learner is not None}

    def _renew(self, now: float) -> float:
        try:
            validity = self._access.attest()
        except AttestationRefusedError as error:
            raise AccessLostError(str(error)) from error
        except DeviceSimError as error:
            return now + self._pause_after("renew", error)
        self._failures.pop("renew", None)
        tell_attested(self._emit, validity)
        return now + renewal_seconds(validity, self._rng, jitter=RENEWAL_JITTER)

    def _count(self, now: float) -> float:
        self.count()
        return now + self._behaviour.counts_period_seconds

    def _tell_health(self, now: float) -> float:
        self._health.end_windows(self._machine.clock.now())
        if self._access.reach is Access.FULL:
            self._publish_health()
        self._health.keep()
        return now + self._behaviour.health_window.total_seconds() / HEALTH_LOOKS

    def _publish_health(self) -> None:
        counts = self._access.link.counts
        if counts.dropped != self._dropped:
            self._dropped = counts.dropped
            self._health.retell()
        elif not counts.outstanding:
            self._health.delivered()
        topic = telemetry_topic(self._machine.device_id, HEALTH_STREAM)
        for report in self._health.take_untold():
            self._access.link.publish(topic, canonical_json(report))

    def _infer_with(self, watch: CoreWatch) -> Callable[[float], float]:
        topic = telemetry_topic(self._machine.device_id, INFERENCE_STREAM)

        def infer(now: float) -> float:
            del now  # the watch keeps the device's own time
            record = watch.run()
            if self._machine.shadow is not None:
                self._timetable.advance("shadow", 0.0)
            if record is not None and self._access.reach is Access.FULL:
                self._access.link.publish(topic, canonical_json(record))
            return watch.due

        return infer

    def _pause_after(self, what: str, error: Exception) -> float:
        failures = self._failures[what] = self._failures.get(what, 0) + 1
        self._emit("retry", what=what, attempt=failures, reason=str(error))
        wanted = error.retry_after_seconds if isinstance(error, NetworkError) else 0.0
        return wanted + self._retry.pause_seconds(failures)


def _summary(shadow: ShadowCounts) -> str:
    if shadow.failure:
        return shadow.failure
    return f"{shadow.agreements} of {shadow.frames} frames answered alike"


def renewal_seconds(validity: Validity, rng: random.Random, *, jitter: float) -> float:
    """Return how long to wait with the next attestation: half of the certificate's life, or up to a share less.

    Args:
        validity: of the certificate in force.
        rng: seeded, of the device.
        jitter: greatest share of the wait that is left out, 0 to 1.
    """
    return validity.half_seconds * rng.uniform(1 - jitter, 1)


def tell_attested(emit: Emit, validity: Validity) -> None:
    """Emit that the device was let in, until when and how far."""
    event = "attested" if validity.access is Access.FULL else "quarantined"
    emit(event, not_after=validity.not_after.isoformat(), access=validity.access.value)
