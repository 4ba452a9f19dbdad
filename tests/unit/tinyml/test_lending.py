"""Workers are lent to one thread at a time, and to whoever has waited for the longest."""

import threading
from collections.abc import Callable

from tinyml.lending import Lending

PATIENCE_SECONDS = 30.0


class Borrower:
    """Borrows in a thread of its own."""

    def __init__(self, take: Callable[[], str | None]) -> None:
        self.taken: str | None = None
        self._take = take
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.taken = self._take()

    def wait(self) -> str | None:
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()
        return self.taken


def waiting(lending: Lending[str], count: int) -> None:
    """Return when so many threads wait."""
    pause = threading.Event()
    while len(lending._waiting) < count:
        pause.wait(0.001)


def test_a_free_thing_is_lent_at_once_and_comes_back() -> None:
    """Any free thing will do."""
    lending = Lending(["one"])
    assert lending.take(0) == "one"
    assert lending.none_left
    lending.give("one")
    assert not lending.none_left


def test_nothing_free_in_time_is_none_and_leaves_no_waiter() -> None:
    """Who gives up waiting is lent nothing later."""
    lending = Lending(["one"])
    lending.take(0)
    assert lending.take(0.001) is None
    lending.give("one")
    assert lending.take(0) == "one"


def test_a_wanted_thing_is_waited_for_beside_free_ones() -> None:
    """Another one that is free does not stand in for it."""
    lending = Lending(["one", "two"])
    assert lending.take(0, "two") == "two"
    assert lending.take(0.001, "two") is None
    borrower = Borrower(lambda: lending.take(PATIENCE_SECONDS, "two"))
    waiting(lending, 1)
    lending.give("two")
    assert borrower.wait() == "two"
    assert lending.take(0) == "one"


def test_who_has_waited_for_the_longest_is_served_first() -> None:
    """Two threads wait for any; the first one gets what comes first."""
    lending = Lending(["one"])
    lending.take(0)
    first = Borrower(lambda: lending.take(PATIENCE_SECONDS))
    waiting(lending, 1)
    second = Borrower(lambda: lending.take(PATIENCE_SECONDS))
    waiting(lending, 2)
    lending.give("one")
    assert first.wait() == "one"
    assert second.taken is None
    lending.give("one")
    assert second.wait() == "one"


def test_a_thing_passes_by_those_who_want_another() -> None:
    """Who waits for one thing does not hold up who takes any."""
    lending = Lending(["one", "two"])
    lending.take(0, "one")
    lending.take(0, "two")
    choosy = Borrower(lambda: lending.take(PATIENCE_SECONDS, "two"))
    waiting(lending, 1)
    anyone = Borrower(lambda: lending.take(PATIENCE_SECONDS))
    waiting(lending, 2)
    lending.give("one")
    assert anyone.wait() == "one"
    lending.give("two")
    assert choosy.wait() == "two"
