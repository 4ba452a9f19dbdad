"""Attacks of the network and of the wrong hardware, up to the security event that an operator reads.

The other attacks that Uptane names are in test_compromise_*.py, each up to its event, too.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from itertools import islice
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Targets

from device_sim.network.ports import FalseServerError, NetworkError, SlowRetrievalError, UnreachableError
from pki.metadata import listed_file, sign_targets
from pki.roles import OfflineKey
from protocol.geometry import Slot
from protocol.messages import ActionState, Attack
from service.application.security_events import ATTACK_INDICATED, DEVICE_UNHEARD
from tests.attack.director_device import DIRECTOR
from tests.attack.drill import ARTIFACTS, FIRMWARE, IMAGE, Drill, State, open_drill
from tests.attack.online_thief import Thief

TIMEOUT = timedelta(hours=1)
TRIES = 50


@pytest.fixture
async def drill(tmp_path: Path) -> AsyncIterator[Drill]:
    """A device after a legitimate update, and a service that rolls out the next one."""
    async with open_drill(tmp_path) as opened:
        yield opened


async def test_slow_retrieval_is_told_of(drill: Drill) -> None:
    """No image ever comes within its time."""
    action_id = await drill.roll_out("second")
    drill.connection.attacker.breaks = lambda path: (
        SlowRetrievalError("expected the whole answer within 30 s, found less") if path.startswith(ARTIFACTS) else None
    )
    await drill.assert_refused(action_id, Attack.SLOW_RETRIEVAL, "within 30 s, found less, 3 times")


async def test_image_for_other_hardware_is_told_of(drill: Drill) -> None:
    """Whoever holds the Image targets key and the online ones lists one core's firmware for the other core."""
    action_id = await drill.roll_out("second")
    thief = Thief(drill)
    name = (await drill.world.releases.get("second")).images[FIRMWARE].target
    listed = await drill.targets()
    listed[name].custom["hardware_ids"] = [Slot.M4_1_FIRMWARE.core.hardware_id]
    content = (await drill.connection.http.get(f"{IMAGE}targets.json")).content
    current = Metadata[Targets].from_bytes(content).signed
    forged = sign_targets(
        list(listed.values()),
        drill.world.keys.load(OfflineKey.IMAGE_TARGETS),
        version=current.version + 1,
        expires=current.expires,
        delegations=current.delegations,
    )
    thief.put("targets", forged)
    thief.snapshot({**await thief.roles(), "targets": listed_file(forged, version=current.version + 1)})
    await drill.assert_refused(action_id, Attack.WRONG_HARDWARE, "expected hardware mt3620-m4-0")


async def test_false_server_is_told_of(drill: Drill) -> None:
    """Eavesdropping: nothing was sent to it and nothing changed; the update goes on with the service."""
    action_id = await drill.roll_out("second")
    before, met = drill.state(), list[State]()

    def first_somebody_else(path: str) -> NetworkError | None:
        if not path.startswith(ARTIFACTS) or len(met) == TRIES:
            return None
        met.append(drill.state())
        return FalseServerError("expected a certificate of the service, found another")

    drill.connection.attacker.breaks = first_somebody_else
    assert await drill.run(action_id) is ActionState.CONFIRMED
    assert met == [before] * TRIES
    (event,) = await drill.security_events()
    assert (event.change, event.subject_id) == (ATTACK_INDICATED, drill.device_id)
    assert (event.data["attack"], event.data["rule"]) == (Attack.EAVESDROP, "FalseServerError")


async def test_dropped_requests_are_told_of(drill: Drill) -> None:
    """Drop-request: the device polls, and whatever it asks of the Director is lost on the way."""
    action_id = await drill.roll_out("second", action_timeout=TIMEOUT)
    world, before = drill.world, drill.state()
    drill.connection.attacker.breaks = lambda path: (
        UnreachableError("connection reset") if path.startswith(DIRECTOR) else None
    )
    drill.machine.learn_time(world.clock.now())
    assert len(await asyncio.to_thread(lambda: list(islice(drill.client.run(action_id), TRIES)))) == TRIES
    for _ in range(2):
        assert drill.state() == before
        drill.restart()
    world.clock.advance(600)
    async with world.unit_of_work() as work:
        await work.devices.touch({drill.device_id: world.clock.now()})
        await work.commit()
    world.clock.advance(TIMEOUT.total_seconds())
    await world.tick()
    (event,) = await drill.security_events()
    assert (event.change, event.subject_id) == (DEVICE_UNHEARD, drill.device_id)
    assert (event.data["attack"], event.data["rule"]) == (Attack.DROP_REQUEST, "RequestMissing")
    assert (event.data["action_id"], event.data["release"]) == (action_id, "second")
