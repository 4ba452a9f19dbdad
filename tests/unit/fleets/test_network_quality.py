"""What a path lets through, and what it takes, under a virtual clock."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from device_sim.fleets.choices import chance
from device_sim.network.ports import HttpResponse, SlowRetrievalError, UnreachableError
from device_sim.network.quality import NetworkPath, Surrounds
from device_sim.network.shaped import ShapedTransport
from device_sim.network.wire import WireMeter
from protocol.scenario.network import NetworkQuality

START = datetime(2026, 1, 5, 8, tzinfo=UTC)
LIMIT = 30.0


@dataclass
class VirtualClock:
    """A clock that a test turns."""

    at: datetime = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def turn(self, **span: float) -> None:
        self.at += timedelta(**span)


@dataclass
class Server:
    """Answers everything and counts its bytes."""

    meter: WireMeter
    requests: list[str] = field(default_factory=list)
    closed: int = 0

    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        del method, max_bytes, body, headers
        self.requests.append(path)
        self.meter.add(sent=100, received=900, requests=1)
        return HttpResponse(200, {}, b"")

    def close(self) -> None:
        self.closed += 1


@dataclass
class Shaped:
    """A path and requests over it."""

    path: NetworkPath
    clock: VirtualClock
    server: Server
    transport: ShapedTransport

    def ask(self) -> HttpResponse:
        return self.transport.request("GET", "/x", max_bytes=10)


def shaped(*, utc_offset: float = 0, seed: int = 1, **quality: Any) -> Shaped:
    clock, meter = VirtualClock(), WireMeter()
    where = Surrounds(NetworkQuality.model_validate(quality), timedelta(hours=utc_offset), START)
    path = NetworkPath(where, clock=clock, draw=partial(chance, seed, who="device"), meter=meter)
    server = Server(meter)
    return Shaped(path, clock, server, ShapedTransport(server, path, limit_seconds=LIMIT))


def test_perfect_network_owes_nothing() -> None:
    """The defaults let everything through at once."""
    found = shaped()
    assert found.ask().status == 200
    assert found.path.settle() == 0
    assert found.path.message_seconds(1000) == 0


def test_exchange_takes_both_ways_and_its_bytes() -> None:
    """Latency there and back, and a thousand bytes at a hundred a second; owed once."""
    found = shaped(latency="200ms", bytes_per_second=100)
    found.ask()
    assert found.path.settle() == pytest.approx(0.4 + 10)
    assert found.path.settle() == 0
    assert found.path.message_seconds(50) == pytest.approx(0.2 + 0.5)


def test_jitter_stays_within_its_limits_and_repeats_by_seed() -> None:
    """The same seed draws the same delays, another one others."""
    draws = []
    for seed in (1, 1, 2):
        path = shaped(latency="100ms", jitter="50ms", seed=seed).path
        draws.append([path.message_seconds(1) for _ in range(50)])
    assert draws[0] == draws[1] != draws[2]
    assert all(0.05 <= seconds <= 0.15 for seconds in draws[0])


def test_lost_exchange_is_repeated_and_given_up_at_its_limit() -> None:
    """Losses cost 1, 2, 4 … seconds; a network that loses everything costs the time limit and answers nothing."""
    found = shaped(loss=0.5)
    seen = set()
    for _ in range(200):
        try:
            found.ask()
        except SlowRetrievalError:
            seen.add("lost")
        seen.add(str(found.path.settle()))
    assert {"0.0", "1.0", "3.0", "7.0", "lost", str(LIMIT)} <= seen
    dead = shaped(loss=1.0)
    for _ in range(20):
        with pytest.raises(SlowRetrievalError, match="lost"):
            dead.ask()
    assert dead.path.settle() == 20 * LIMIT
    assert 0 < len(dead.server.requests) < 20  # of some only the answer got lost


def test_outage_is_counted_from_the_start_of_the_scenario() -> None:
    """Nobody gets through for its length, and the transport has let go of its connection."""
    found = shaped(outages=[{"start": "10m", "lasts": "5m"}])
    found.ask()
    found.clock.turn(minutes=10)
    with pytest.raises(UnreachableError, match="outage"):
        found.ask()
    assert found.server.closed == 1
    found.clock.turn(minutes=5)
    found.ask()


def test_captive_hours_are_in_the_regions_own_time() -> None:
    """22:00 to 06:00 at UTC+2 is 20:00 to 04:00 UTC; hours that end on the same day work, too."""
    found = shaped(utc_offset=2, offline_hours=["22:00-06:00"])
    open_at = {}
    for hour in range(24):
        open_at[found.clock.at.hour] = found.path.is_open
        found.clock.turn(hours=1)
        assert hour < 24
    assert [hour for hour in range(24) if not open_at[hour]] == [0, 1, 2, 3, 20, 21, 22, 23]
    noon = shaped(offline_hours=["08:00-09:00"]).path
    assert not noon.is_open


def test_used_up_budget_returns_at_the_regions_midnight() -> None:
    """Three thousand bytes are three exchanges; at UTC+14 midnight is at 10:00 UTC."""
    found = shaped(utc_offset=14, metered_bytes_per_day=3000)
    for _ in range(3):
        found.ask()
    with pytest.raises(UnreachableError, match="metered bytes are used up"):
        found.ask()
    found.clock.turn(hours=2)
    found.ask()


def test_nat_forgets_a_silent_connection() -> None:
    """A connection that was silent for longer is opened anew."""
    found = shaped(nat_timeout="5m")
    found.ask()
    found.clock.turn(minutes=5)
    found.ask()
    assert found.server.closed == 0
    found.clock.turn(minutes=6)
    found.ask()
    assert found.server.closed == 1
    assert not shaped().path.forgets(-1e9)


def test_cut_holds_for_its_time_and_so_does_the_lack_of_power() -> None:
    """A shorter cut does not end a longer one."""
    found = shaped()
    found.path.cut(timedelta(minutes=10))
    found.path.cut(timedelta(minutes=1))
    found.clock.turn(minutes=5)
    assert found.path.closed_because == "the network is cut"
    found.clock.turn(minutes=5)
    assert found.path.is_open
    found.path.switch(on=False)
    assert found.path.closed_because == "the device has no power"
    found.path.switch(on=True)
    assert found.path.is_open


def test_messages_and_requests_draw_from_generators_of_their_own() -> None:
    """What the link's thread draws does not change what the device's steps draw."""
    alone, beside = shaped(latency="1s", jitter="1s").path, shaped(latency="1s", jitter="1s").path
    for _ in range(10):
        beside.message_seconds(1)
    assert alone.exchange(LIMIT) == beside.exchange(LIMIT)
