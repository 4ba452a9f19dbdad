"""What the A7 sends of what the cores learned, when, and what it does of what is ordered."""

import json
from collections.abc import Mapping
from datetime import timedelta

import numpy as np
import pytest

from device_sim.learning.backup import LOOK_SECONDS, LearnedBackup
from device_sim.learning.learner import KEPT_EVERY, Learner
from device_sim.learning.states import LearnedStates
from device_sim.network.ports import HttpResponse, UnexpectedResponseError
from protocol.document import canonical_json, parse_document
from protocol.geometry import Core
from protocol.learned_backup import LearnedOrder, LearnedOrders, LearnedOutcome, LearnedUpload, OrderKind
from protocol.learned_state import encode_state, parse_state
from protocol.learning import LearningTemplate, StatePolicy
from tests.learning_template import COMPONENT, learning_template
from tests.unit.device_hardware.device_builder import BUILT_AT
from tests.unit.tinyml.synthetic_vibration import synthetic_machine
from tinyml.anomaly.detector import AnomalyDetector
from tinyml.workers import ModelImage

CORE = Core.M4_1
PERIOD = timedelta(hours=6)
TEMPLATE = learning_template(warm_up=2 * KEPT_EVERY)
WINDOWS = synthetic_machine(3).windows(np.random.default_rng(3), 2 * KEPT_EVERY)
ORDER_ID = "11111111-2222-4333-8444-555555555555"


class DictStorage(dict[str, bytes]):
    """Secure storage in memory."""

    def put(self, name: str, value: bytes) -> None:
        self[name] = value


class FakeService:
    """The service's side of the device API: takes states and outcomes, has orders; may refuse or be away."""

    def __init__(self) -> None:
        self.orders: list[LearnedOrder] = []
        self.states: list[bytes] = []
        self.outcomes: list[LearnedOutcome] = []
        self.statuses: dict[str, int] = {}

    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        del max_bytes, headers
        name = path.rpartition("/")[2]
        status = self.statuses.get(f"{method} {name}", 200 if method == "GET" else 204)
        if status >= 300:
            return HttpResponse(status, {"retry-after": "77"}, json.dumps({"detail": "as the test wants"}).encode())
        if method == "GET":
            return HttpResponse(status, {}, canonical_json(LearnedOrders(orders=tuple(self.orders))))
        if name == "outcome":
            self.outcomes.append(outcome := parse_document(body or b"", LearnedOutcome))
            self.orders = [order for order in self.orders if order.order_id != outcome.order_id]
        else:
            self.states.append(parse_document(body or b"", LearnedUpload).state)
        return HttpResponse(status, {}, b"")

    def close(self) -> None:
        """Nothing is open."""


class Bench:
    """A device's storage, one core that learns, and a service."""

    def __init__(self, template: LearningTemplate = TEMPLATE, *, keeps: bool = True) -> None:
        self.storage, self.service, self.now = DictStorage(), FakeService(), BUILT_AT
        self.events: list[tuple[str, dict[str, object]]] = []
        self.states = LearnedStates(self.storage)
        self.learners = {CORE: self.learner(template, keeps=keeps)}
        self.backup = self.start()

    def learner(self, template: LearningTemplate, *, keeps: bool = True) -> Learner:
        return Learner(template, component_id=COMPONENT, core=CORE, states=self.states, keeps=keeps)

    def start(self) -> LearnedBackup:
        """As after a boot."""
        return LearnedBackup(
            self.storage,
            lambda: self.now,
            learners=lambda: self.learners,
            period=PERIOD,
            emit=lambda event, **fields: self.events.append((event, fields)),
        )

    def learn(self, windows: list[np.ndarray]) -> None:
        for window in windows:
            self.learners[CORE].invoke(ModelImage(b"", 0), window, deadline_seconds=1)

    def run(self, *, after: timedelta = timedelta(), asks: bool = True) -> float:
        self.now += after
        if asks:
            self.backup.ask()
        return self.backup.run(self.service)


def state_of(template: LearningTemplate, *, component: str = COMPONENT, windows: int = KEPT_EVERY) -> bytes:
    detector = AnomalyDetector(template, component_id=component)
    for window in WINDOWS[:windows]:
        detector.learn(window)
    return encode_state(detector.state())


def order(kind: OrderKind = OrderKind.RESTORE, state: bytes | None = None) -> LearnedOrder:
    return LearnedOrder(order_id=ORDER_ID, core=CORE, kind=kind, state=state)


def test_state_is_sent_once_the_warm_up_is_over() -> None:
    """Not before, and then never again, also not after a restart: nothing changes any more."""
    bench = Bench()
    bench.learn(WINDOWS[: KEPT_EVERY + 1])
    assert bench.run() == LOOK_SECONDS
    assert bench.service.states == []
    bench.learn(WINDOWS[KEPT_EVERY + 1 :])
    assert bench.run() == PERIOD.total_seconds()
    assert [parse_state(state).windows for state in bench.service.states] == [2 * KEPT_EVERY]
    bench.backup = bench.start()
    assert bench.run(after=PERIOD) == PERIOD.total_seconds()
    assert len(bench.service.states) == 1


def test_long_warm_up_is_backed_up_once_a_period() -> None:
    """A device that dies in the middle of it has not learned in vain."""
    bench = Bench(learning_template(warm_up=1000))
    bench.learn(WINDOWS[:KEPT_EVERY])
    bench.run()
    bench.run(after=PERIOD - timedelta(seconds=1))
    assert bench.service.states == []
    bench.run(after=timedelta(seconds=1))
    bench.learn(WINDOWS[:KEPT_EVERY])
    bench.run(after=PERIOD / 2)
    assert len(bench.service.states) == 1
    bench.run(after=PERIOD / 2)
    assert [parse_state(state).windows for state in bench.service.states] == [KEPT_EVERY, 2 * KEPT_EVERY]


def test_restored_state_is_gone_on_with_and_told_once() -> None:
    """The core has what the other learned, at once and after a restart; an outcome that got lost is told again."""
    bench = Bench()
    bench.service.orders = [order(state=state_of(TEMPLATE))]
    bench.service.statuses["POST outcome"] = 503
    with pytest.raises(UnexpectedResponseError) as away:
        bench.run()
    assert away.value.retry_after_seconds == 77
    assert bench.learners[CORE].detector.windows == KEPT_EVERY
    bench.learn(WINDOWS[KEPT_EVERY:])
    bench.service.statuses.clear()
    bench.backup = bench.start()
    bench.run()
    assert [(outcome.order_id, outcome.is_done) for outcome in bench.service.outcomes] == [(ORDER_ID, True)]
    assert bench.learners[CORE].detector.windows == 2 * KEPT_EVERY  # done once: what was learned since is there
    assert [event for event, _ in bench.events] == ["learned-restore", "learned-sent"]


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (state_of(TEMPLATE, component="22222222-2222-4222-8222-222222222222"), "expected one of component 6f1e2d3c"),
        (state_of(TEMPLATE)[:-1] + b"\0", "expected the SHA-256 of its bytes"),
        (b"nothing", "bytes, found 7"),
    ],
)
def test_state_that_does_not_fit_is_refused_and_said_so(state: bytes, reason: str) -> None:
    """Another component's, a spoiled one, none at all: what the core learned itself stays."""
    bench = Bench()
    bench.learn(WINDOWS[:KEPT_EVERY])
    kept = bench.states.recall(CORE)
    bench.service.orders = [order(state=state)]
    bench.run()
    (outcome,) = bench.service.outcomes
    assert not outcome.is_done
    assert reason in outcome.detail
    assert bench.states.recall(CORE) == kept
    assert bench.learners[CORE].detector.windows == KEPT_EVERY


def test_template_that_resets_takes_no_state_of_another_one() -> None:
    """One of its own is welcome: the device that was replaced ran the same template."""
    resetting = learning_template(warm_up=100, policy=StatePolicy.RESET)
    bench = Bench(resetting)
    bench.service.orders = [order(state=state_of(TEMPLATE))]
    bench.run()
    bench.service.orders = [order(state=state_of(resetting)).model_copy(update={"order_id": COMPONENT})]
    bench.run()
    assert [outcome.is_done for outcome in bench.service.outcomes] == [False, True]
    assert "which resets those of others" in bench.service.outcomes[0].detail


def test_reset_learns_anew_and_is_not_undone_by_a_restart() -> None:
    """The operator's word: nothing of what was learned is left on the device."""
    bench = Bench()
    bench.learn(WINDOWS)
    bench.run()
    bench.service.orders = [order(OrderKind.RESET)]
    bench.run()
    assert (bench.learners[CORE].detector.windows, bench.states.recall(CORE)) == (0, None)
    assert bench.learner(TEMPLATE).origin == "nothing was learned before"
    bench.learn(WINDOWS)
    bench.run(after=PERIOD / 2)
    bench.run(after=PERIOD / 2)
    assert len(bench.service.states) == 1  # it learned the same again, byte for byte


def test_order_waits_for_the_end_of_a_trial_and_for_a_core_that_learns() -> None:
    """Neither done nor refused, and asked for again."""
    bench = Bench(keeps=False)
    bench.service.orders = [order(OrderKind.RESET)]
    bench.run()
    learner = bench.learners.pop(CORE)
    bench.run()
    assert bench.service.outcomes == []
    bench.learners[CORE] = bench.learner(learner.template)
    bench.run()
    assert [outcome.is_done for outcome in bench.service.outcomes] == [True]


def test_refused_state_is_not_sent_again() -> None:
    """The service takes it never; the device learns on and says so."""
    bench = Bench()
    bench.learn(WINDOWS)
    bench.service.statuses["POST learned"] = 422
    bench.run()
    bench.service.statuses.clear()
    bench.run(after=PERIOD)
    assert bench.service.states == []
    assert bench.events == [("learned-state-refused", {"core": "m4-1", "reason": "as the test wants"})]


def test_order_that_was_withdrawn_meanwhile_is_let_go() -> None:
    """The service does not know it any more; the device does not ask for ever."""
    bench = Bench()
    bench.service.orders = [order(OrderKind.RESET)]
    bench.service.statuses["POST outcome"] = 404
    bench.run()
    assert bench.events[-1] == ("learned-outcome-refused", {"order_id": ORDER_ID, "reason": "as the test wants"})


def test_orders_are_asked_for_once_a_period_or_when_told_to() -> None:
    """A look at the device's own state needs no network."""
    bench = Bench(learning_template(warm_up=1000))
    bench.run(asks=False)
    bench.service.orders = [order(OrderKind.RESET)]
    for _ in range(3):
        assert bench.run(after=timedelta(seconds=LOOK_SECONDS), asks=False) == LOOK_SECONDS
    assert bench.service.outcomes == []
    bench.run(after=PERIOD, asks=False)
    assert len(bench.service.outcomes) == 1
    bench.service.orders = [order(OrderKind.RESET).model_copy(update={"order_id": COMPONENT})]
    bench.run(asks=True)
    assert len(bench.service.outcomes) == 2


def test_malformed_orders_are_a_fault_of_the_service() -> None:
    """Nothing is done, and it is asked again later."""
    bench = Bench()
    bench.service.orders = [LearnedOrder.model_construct(order_id="x", core=CORE, kind=OrderKind.RESET, state=None)]
    with pytest.raises(UnexpectedResponseError, match="order_id"):
        bench.run()
    bench.service.statuses["GET learned"] = 500
    with pytest.raises(UnexpectedResponseError, match="expected 200, found 500"):
        bench.run()
