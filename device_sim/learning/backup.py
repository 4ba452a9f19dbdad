"""The A7's dealings with the service about what the cores learned: a backup now and then, and what operators order.

A state is sent when it has changed, at most once a period: the first time when the warm-up is over, or a period after
the start if it takes longer. An order is done once: how it went is kept until the service has heard it. Nothing is
taken from the service that the core's template would not go on with (`states.check_taken`). An order for a core that
does not learn yet, or that is on trial, waits.
"""

import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from device_sim.learning.learner import Learner
from device_sim.learning.states import ItemStorage, LearnedStates, check_taken
from device_sim.network.learned import LearnedRefusedError, fetch_orders, send_outcome, send_state
from device_sim.network.ports import HttpTransport
from protocol.document import Document, Moment, canonical_json, parse_document
from protocol.errors import ProtocolError
from protocol.geometry import Core
from protocol.learned_backup import LearnedOrder, LearnedOutcome, LearnedUpload, OrderKind
from protocol.messages import MAX_DETAIL_CHARACTERS
from protocol.model import Sha256Hex

_SENT = "learned/sent/"  # names in secure storage
_OUTCOMES = "learned/outcomes"
LOOK_SECONDS = 30.0  # between two looks, at the device alone, whether a state is to be sent


class _Sent(Document):
    sha256: Sha256Hex
    at: Moment


class _Outcomes(Document):
    outcomes: tuple[LearnedOutcome, ...] = ()


class LearnedBackup:
    """Backs up, restores and resets what the cores of one device learned.

    Args:
        storage: of the device.
        now: the device's time.
        learners: returns what learns, by core.
        period: shortest time between two backups of a core.
        emit: takes events.
    """

    def __init__(
        self,
        storage: ItemStorage,
        now: Callable[[], datetime],
        *,
        learners: Callable[[], Mapping[Core, Learner]],
        period: timedelta,
        emit: Callable[..., None],
    ) -> None:
        self._storage = storage
        self._now = now
        self._states = LearnedStates(storage)
        self._learners = learners
        self._period = period
        self._emit = emit
        self._begun: datetime | None = None
        self._asked: datetime | None = None

    def ask(self) -> None:
        """Have the next run ask what is ordered, however short the time since the last one did."""
        self._asked = None

    def run(self, transport: HttpTransport) -> float:
        """Do what is ordered, asked for once a period or after `ask`, and send what has changed.

        Args:
            transport: with an LDevID of full access.

        Returns:
            Seconds until there is something to do again.

        Raises:
            NetworkError: the service was not reached, broke the protocol, or wants to be left alone.
        """
        now = self._now()
        self._begun = self._begun or now
        if self._asked is None or now >= self._asked + self._period:
            self._do_orders(transport)
            self._asked = now
        waiting = [self._back_up(core, learner, transport) for core, learner in self._learners().items()]
        period_seconds = self._period.total_seconds()
        return min(period_seconds, LOOK_SECONDS) if any(waiting) else period_seconds

    def _do_orders(self, transport: HttpTransport) -> None:
        orders = fetch_orders(transport)
        known = {outcome.order_id: outcome for outcome in self._outcomes()}
        listed = {order.order_id for order in orders}
        for order in orders:
            outcome = known.get(order.order_id) or self._do(order)
            if outcome is None:
                continue
            known = {name: each for name, each in known.items() if name in listed} | {order.order_id: outcome}
            self._storage.put(_OUTCOMES, canonical_json(_Outcomes(outcomes=tuple(known.values()))))
            self._tell(outcome, transport)

    def _tell(self, outcome: LearnedOutcome, transport: HttpTransport) -> None:
        try:
            send_outcome(transport, outcome)
        except LearnedRefusedError as error:
            self._emit("learned-outcome-refused", order_id=outcome.order_id, reason=str(error))

    def _do(self, order: LearnedOrder) -> LearnedOutcome | None:
        """Do an order; None: it waits for a core that learns, and for the end of a trial."""
        learner = self._learners().get(order.core)
        if learner is None or not learner.keeps:
            return None
        refusal = self._take(order, learner)
        self._emit(f"learned-{order.kind}", core=order.core.value, order_id=order.order_id, refusal=refusal)
        return LearnedOutcome(order_id=order.order_id, is_done=not refusal, detail=refusal[:MAX_DETAIL_CHARACTERS])

    def _take(self, order: LearnedOrder, learner: Learner) -> str:
        """Keep what an order brings, or nothing in a reset; return why not, or an empty string."""
        if order.kind is OrderKind.RESET or order.state is None:
            self._states.forget(order.core)
            learner.restart()
            return ""
        try:
            check_taken(order.state, learner.template, component_id=learner.component_id)
        except ProtocolError as error:
            return str(error)
        self._states.keep(order.core, order.state)
        learner.restart()
        return ""

    def _back_up(self, core: Core, learner: Learner, transport: HttpTransport) -> bool:
        """Send a state that is due; return whether there will be one before the period is over."""
        state, sent, now = self._states.recall(core), self._sent(core), self._now()
        digest = hashlib.sha256(state or b"").hexdigest()
        if state is None or (sent is not None and sent.sha256 == digest):
            return learner.detector.is_learning
        if now < self._due(learner, sent):
            return True
        try:
            send_state(transport, LearnedUpload(core=core, state=state))
        except LearnedRefusedError as error:
            self._emit("learned-state-refused", core=core.value, reason=str(error))
        else:
            self._emit("learned-sent", core=core.value, windows=learner.detector.windows)
        self._storage.put(_SENT + core, canonical_json(_Sent(sha256=digest, at=now)))
        return learner.detector.is_learning

    def _due(self, learner: Learner, sent: _Sent | None) -> datetime:
        if sent is not None:
            return sent.at + self._period
        begun = self._begun or self._now()
        return begun + self._period if learner.detector.is_learning else begun

    def _sent(self, core: Core) -> _Sent | None:
        kept = self._storage.get(_SENT + core)
        return None if kept is None else parse_document(kept, _Sent)

    def _outcomes(self) -> tuple[LearnedOutcome, ...]:
        kept = self._storage.get(_OUTCOMES)
        return () if kept is None else parse_document(kept, _Outcomes).outcomes
