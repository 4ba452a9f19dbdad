"""Backups and orders of learned states in the control database, on SQLite and PostgreSQL."""

from dataclasses import replace
from datetime import timedelta

import pytest

from protocol.geometry import Core
from protocol.learned_backup import LearnedOutcome, LearnedUpload
from protocol.learned_state import LearnedState, encode_state
from service.application.learned_state_repository import OrderState
from service.application.learned_states import LearnedStates, OrderWaker, UnknownLearnedStateError
from tests.integration.service_devices.device_world import OPERATOR, DeviceWorld
from tests.integration.service_updates.update_world import SeededEntropy

STATE = LearnedState(
    component_id="6f1e2d3c-0000-4000-8000-000000000001",
    layout_sha256="a" * 64,
    template_sha256="b" * 64,
    features=18,
    windows=0xFFFF_FFFF,
    sensitivity=1.0,
    prototypes=(),
)


class ListeningGateway:
    """Remembers who was told what."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def notify(self, device_id: str, name: str, payload: bytes = b"") -> bool:
        assert payload == b""
        self.told.append((device_id, name))
        return True


def learned_states(world: DeviceWorld) -> LearnedStates:
    return LearnedStates(world.unit_of_work, clock=world.clock, entropy=SeededEntropy(7), kept=timedelta(days=30))


async def test_same_state_again_stays_as_it_came_first(world: DeviceWorld) -> None:
    """Another state takes the place of the one before; the counter of windows may be as high as it gets."""
    states, device = learned_states(world), (await world.claimed()).device_id
    upload = LearnedUpload(core=Core.M4_0, state=encode_state(STATE))
    await states.take(device, upload)
    first = await states.get(device, Core.M4_0)
    world.clock.advance(60)
    await states.take(device, upload)
    assert await states.get(device, Core.M4_0) == first
    await states.take(device, LearnedUpload(core=Core.M4_0, state=encode_state(replace(STATE, windows=1))))
    found = await states.get(device, Core.M4_0)
    assert (found.windows, found.received_at) == (1, world.clock.now())
    assert await states.page(after=None, limit=10) == [found]
    assert await states.page(after=(device, "m4-0"), limit=10) == []
    with pytest.raises(UnknownLearnedStateError, match="m4-1 learned, found none"):
        await states.get(device, Core.M4_1)


async def test_orders_are_told_settled_and_forgotten(world: DeviceWorld) -> None:
    """One open order for each core; the event feed wakes the device; settled ones go after their time."""
    states, device = learned_states(world), (await world.claimed()).device_id
    gateway = ListeningGateway()
    await world.feed.start()
    world.feed.subscribe(OrderWaker(gateway).hear)  # type: ignore[arg-type]  # all that the waker asks of it
    for core in (Core.M4_0, Core.M4_0, Core.M4_1):
        await states.reset(OPERATOR, device, core=core, reason="another machine")
    await world.feed.catch_up()
    assert gateway.told == [(device, "learned-orders")] * 3
    waiting = (await states.orders(device)).orders
    assert [order.core for order in waiting] == [Core.M4_0, Core.M4_1]
    await states.settle(device, LearnedOutcome(order_id=waiting[0].order_id, is_done=True))
    newest, *older = await states.page_orders(before=None, limit=10, device=device)
    assert newest.state is OrderState.OPEN
    assert [order.state for order in older] == [OrderState.DONE, OrderState.WITHDRAWN]
    assert await states.page_orders(before=older[0].number, limit=10) == older[1:]
    world.clock.advance(31 * 86_400)
    await states.keep_house(world.clock.now())
    assert await states.page_orders(before=None, limit=10) == [newest]
