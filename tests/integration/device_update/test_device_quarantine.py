"""A device that is let in for updates alone: no MQTT, no telemetry, and full access once it has healed."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from device_sim.network.ports import HttpResponse
from device_sim.runtime.access import Validity
from device_sim.runtime.work import FIRST_RENEWAL_JITTER, RENEWAL_JITTER, renewal_seconds
from protocol.geometry import Slot
from protocol.identity import Access
from protocol.messages import ActionState
from tests.integration.device_update.attesting_wire import Authorities, MemoryNetwork, attestable_device
from tests.integration.device_update.test_device_runtime import Life, link
from tests.unit.device_update.update_builder import NOW

FLEET = 10_000
HALF_SECONDS = 12 * 3600.0


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    updated, wire = attestable_device(tmp_path, Authorities())
    yield Life(updated, wire, MemoryNetwork(wire))
    updated.machine.close()


def test_device_in_quarantine_polls_and_holds_no_mqtt_connection(life: Life) -> None:
    """It sends its manifest and polls over HTTPS; what its cores see stays with it."""
    life.wire.access = Access.UPDATE_ONLY
    life.live_for(8)
    (told,) = life.named("quarantined")
    assert told["access"] == "update-only"
    assert "attested" not in life.names
    assert "connected" not in life.names
    assert not link(life).connected
    assert link(life).messages == []
    assert len(life.wire.manifests) == 1
    assert "/device/v1/poll" in life.wire.requests


def test_device_in_quarantine_heals_by_an_update(life: Life) -> None:
    """It attests at once after the update is confirmed, and then works as any other."""
    life.wire.access = Access.UPDATE_ONLY
    life.live_for(2)
    life.updated.offer_model()
    life.wire.waiting = True
    life.live_until(lambda: "confirmed" in [event["state"] for event in life.named("update")])
    life.wire.waiting, life.wire.access = False, Access.FULL
    confirmed = life.updated.builder.clock.seconds
    life.live_until(lambda: "attested" in life.names)
    assert life.updated.builder.clock.seconds - confirmed < 5
    assert link(life).connected
    life.live_until(lambda: bool(link(life).messages))
    assert ActionState.CONFIRMED in life.wire.states


def test_reverted_update_does_not_end_the_quarantine(life: Life) -> None:
    """What runs has changed twice, so the device asks again, and is told the same."""
    life.wire.access = Access.UPDATE_ONLY
    life.live_for(2)
    slot = Slot.A7_APPLICATION
    package = life.updated.builder.packages.image(slot, version="2.0.0")
    life.updated.catalog.roll_out({slot: life.updated.catalog.add_image(slot, package)})
    life.wire.waiting = True
    life.live_until(lambda: "trial" in [event.get("state") for event in life.events])
    life.wire.refusal = "a7/application: expected a reference value"
    life.live_until(lambda: "reverted" in life.names)
    life.wire.refusal, life.wire.waiting = "", False
    issued = life.wire.issued
    life.live_until(lambda: life.wire.issued > issued)
    assert not link(life).connected


def test_renewal_into_quarantine_closes_the_mqtt_connection(life: Life) -> None:
    """The catalog no longer lists what runs: at the next renewal the device is let in for updates alone."""
    life.wire.lifetime = timedelta(seconds=100)
    life.live_until(lambda: bool(link(life).messages) if life.network.session_made else False)
    life.wire.access = Access.UPDATE_ONLY
    life.live_until(lambda: "quarantined" in life.names)
    assert not link(life).connected
    said = len(link(life).messages)
    life.live_for(20)
    assert len(link(life).messages) == said
    life.wire.access = Access.FULL
    life.live_until(lambda: len(link(life).messages) > said)
    assert link(life).connected


def test_application_that_costs_the_full_access_reverts(life: Life) -> None:
    """A new application that is let in for updates alone, where the old one had full access, does not stay."""
    slot = Slot.A7_APPLICATION
    life.live_until(lambda: "attested" in life.names)
    package = life.updated.builder.packages.image(slot, version="2.0.0")
    life.updated.catalog.roll_out({slot: life.updated.catalog.add_image(slot, package)})
    life.wire.waiting, life.wire.access = True, Access.UPDATE_ONLY
    life.live_until(lambda: "reverted" in life.names)
    assert "expected full access as before" in life.named("reverted")[0]["detail"]
    life.wire.waiting, life.wire.access = False, Access.FULL
    life.live_until(lambda: link(life).connected)
    assert life.updated.machine.installed()[slot].name == "application@1.0.0"


@pytest.mark.parametrize("path", ["/attest/nonce", "/attest", "/poll"])
def test_pause_that_the_service_asks_for_is_honoured(life: Life, path: str) -> None:
    """429 with Retry-After: the device waits that long and its own jittered pause on top."""
    busy = HttpResponse(429, {"retry-after": "300"}, b'{"title": "Too many requests"}')
    life.wire.hook = lambda asked, _headers: busy if asked.endswith(path) else None
    life.live_until(lambda: "retry" in life.names)
    asked = [request for request in life.wire.requests if request.endswith(path)]
    began = life.updated.builder.clock.seconds
    life.live_until(lambda: len([request for request in life.wire.requests if request.endswith(path)]) > len(asked))
    assert 300 <= life.updated.builder.clock.seconds - began <= 302


def test_fleet_that_starts_together_does_not_renew_together() -> None:
    """10,000 devices spread over the half life of their certificates, at the first renewal and at every later one."""
    validity = Validity(Access.FULL, NOW + timedelta(hours=24), HALF_SECONDS)
    hours = [0] * 12
    for number in range(FLEET):
        rng = Random(number)  # noqa: S311 - jitter
        first = renewal_seconds(validity, rng, jitter=FIRST_RENEWAL_JITTER)
        hours[int(first // 3600)] += 1
        assert HALF_SECONDS * 0.9 <= renewal_seconds(validity, rng, jitter=RENEWAL_JITTER) <= HALF_SECONDS
    assert hours[0] == 0
    assert max(hours) < 1.15 * FLEET / (12 * FIRST_RENEWAL_JITTER)
    assert min(hours[2:]) > 0.85 * FLEET / (12 * FIRST_RENEWAL_JITTER)
