"""The in-memory registry: later changes win, whatever order they are heard in."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import DeviceId
from service.application.events import Event, EventType, StoredEvent
from service.application.standing import BlockedDeviceError, Standings, UnclaimedDeviceError

DEVICE = DeviceId("a" * 128)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def heard(sequence: int, change: str) -> StoredEvent:
    return StoredEvent(sequence, Event(EventType.DEVICE, DEVICE, change, NOW))


def test_unknown_and_blocked_devices_do_not_pass() -> None:
    """Deny by default."""
    standings = Standings()
    with pytest.raises(UnclaimedDeviceError, match="expected a claimed device"):
        standings.check(DEVICE)
    standings.hear(heard(1, "claimed"))
    standings.check(DEVICE)
    standings.hear(heard(2, "blocked"))
    with pytest.raises(BlockedDeviceError, match="found it blocked"):
        standings.check(DEVICE)


def test_block_kicks_once_although_the_feed_repeats_it() -> None:
    """The use case says it first, the feed again."""
    standings, kicked = Standings(), list[str]()
    standings.on_block(kicked.append)
    standings.change(DEVICE, blocked=True, sequence=5)
    standings.hear(heard(5, "blocked"))
    assert kicked == [DEVICE]


@given(st.permutations([(1, "claimed"), (2, "blocked"), (3, "unblocked"), (4, "blocked"), (5, "moved")]))
def test_last_change_wins_in_any_order(order: list[tuple[int, str]]) -> None:
    """A blocked device stays out although older changes arrive late."""
    standings = Standings()
    for sequence, change in order:
        standings.hear(heard(sequence, change))
    with pytest.raises(BlockedDeviceError):
        standings.check(DEVICE)
