"""The in-memory registry: later changes win, whatever order they are heard in."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.identity import DeviceId
from service.application.events import Event, EventType, StoredEvent
from service.application.identity import CertificateRefusedError
from service.application.messaging import RefusalReason
from service.application.standing import (
    BlockedDeviceError,
    DecommissionedDeviceError,
    MovedDeviceError,
    RefusedDeviceError,
    Standings,
    UnclaimedDeviceError,
)
from service.domain.device import DeviceState

DEVICE = DeviceId("a" * 128)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def heard(sequence: int, change: str, state: DeviceState = DeviceState.CLAIMED) -> StoredEvent:
    return StoredEvent(sequence, Event(EventType.DEVICE, DEVICE, change, NOW, {"state": state}))


@pytest.mark.parametrize(
    ("state", "refusal", "reason"),
    [
        (DeviceState.REFUSED, RefusedDeviceError, RefusalReason.REFUSED),
        (DeviceState.BLOCKED, BlockedDeviceError, RefusalReason.BLOCKED),
        (DeviceState.MOVED, MovedDeviceError, RefusalReason.MOVED),
        (DeviceState.DECOMMISSIONED, DecommissionedDeviceError, RefusalReason.DECOMMISSIONED),
    ],
)
async def test_unknown_and_shut_out_devices_do_not_pass(
    state: DeviceState, refusal: type[CertificateRefusedError], reason: RefusalReason
) -> None:
    """Deny by default, and say why."""
    standings = Standings()
    with pytest.raises(UnclaimedDeviceError, match="expected a claimed device"):
        standings.check(DEVICE)
    standings.hear(heard(1, "claimed"))
    standings.check(DEVICE)
    assert await standings.refusal(DEVICE) is None
    standings.hear(heard(2, "changed", state))
    with pytest.raises(refusal, match=f"found it {state}"):
        standings.check(DEVICE)
    assert await standings.refusal(DEVICE) is reason


def test_every_state_is_let_in_or_refused_for_a_reason() -> None:
    """A state that is added later must say whether it may connect, and why not."""
    for state in DeviceState:
        standings = Standings()
        standings.change(DEVICE, state, sequence=1)
        if state.may_connect and state is not DeviceState.REFUSED:
            standings.check(DEVICE)
            continue
        with pytest.raises(CertificateRefusedError, match=f"found it {state}"):
            standings.check(DEVICE)


def test_block_kicks_once_although_the_feed_repeats_it() -> None:
    """The use case says it first, the feed again."""
    standings, kicked = Standings(), list[str]()
    standings.on_shut_out(kicked.append)
    standings.change(DEVICE, DeviceState.BLOCKED, sequence=5)
    standings.hear(heard(5, "blocked", DeviceState.BLOCKED))
    assert kicked == [DEVICE]


STATES = {
    "claimed": DeviceState.CLAIMED,
    "blocked": DeviceState.BLOCKED,
    "unblocked": DeviceState.ACTIVE,
    "moved": DeviceState.BLOCKED,  # to another group
}


@given(st.permutations([(1, "claimed"), (2, "blocked"), (3, "unblocked"), (4, "blocked"), (5, "moved")]))
def test_last_change_wins_in_any_order(order: list[tuple[int, str]]) -> None:
    """A blocked device stays out although older changes arrive late."""
    standings = Standings()
    for sequence, change in order:
        standings.hear(heard(sequence, change, STATES[change]))
    with pytest.raises(BlockedDeviceError, match="found it blocked"):
        standings.check(DEVICE)
