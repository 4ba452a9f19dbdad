"""A device's power and its network's delays, under a virtual clock: when it is stepped, and what a cut leaves."""

import math
import random
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, cast

import pytest

from device_sim.errors import PowerCutError
from device_sim.fleets.powered import Mains, PoweredDevice
from device_sim.network.ports import LinkCounts
from device_sim.network.quality import NetworkPath, Surrounds
from device_sim.network.wire import WireMeter
from device_sim.runtime.device import Device
from device_sim.runtime.inference import CoreFigures
from protocol.geometry import Core
from protocol.scenario.fleets import PowerCycles
from protocol.scenario.network import NetworkQuality
from tests.unit.fleets.test_network_quality import START, VirtualClock


@dataclass
class Life:
    """A device between two power cuts; its steps take what a test says."""

    path: NetworkPath
    owes: float = 0.0
    due: float = 10.0
    fails: bool = False
    steps: list[float] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    device_id: str = "ab" * 64

    counts = LinkCounts(sent=5, acknowledged=3, dropped=1, waiting=2)

    @property
    def figures(self) -> dict[Core, CoreFigures]:
        return {Core.M4_0: CoreFigures(len(self.steps), "model@1", 7.0 if self.steps else None, 7.0 * len(self.steps))}

    def step(self, now: float) -> float:
        self.steps.append(now)
        if self.fails:
            raise PowerCutError("cut")
        self.path.owe(self.owes)
        return now + self.due

    def let_go(self) -> None:
        self.said.append("let go")

    def set_load(self, factor: float) -> None:
        self.said.append(f"load {factor}")

    def drain(self, timeout_seconds: float) -> None:
        self.said.append(f"drain {timeout_seconds}")

    def close(self) -> None:
        self.said.append("closed" if self.path.is_open else "closed without a word")


@dataclass
class Bench:
    """A powered device, its lives, and what it asked for."""

    clock: VirtualClock
    lives: list[Life]
    woken: list[PoweredDevice]
    events: list[tuple[str, dict[str, Any]]]
    device: PoweredDevice

    def step(self) -> float:
        return self.device.step(self.clock.monotonic())


def bench(*, per_day: float = 0.0, **life: Any) -> Bench:
    clock = VirtualClock()
    path = NetworkPath(
        Surrounds(NetworkQuality(), timedelta(0), START), clock=clock, draw=random.Random, meter=WireMeter()
    )
    lives: list[Life] = []

    def open_device() -> Device:
        lives.append(Life(path, **life))
        return cast("Device", lives[-1])

    cycles = PowerCycles(per_day=per_day, lasts=(timedelta(seconds=20), timedelta(seconds=20)))
    woken: list[PoweredDevice] = []
    events: list[tuple[str, dict[str, Any]]] = []
    mains = Mains(cycles, random.Random(1), path, clock)  # noqa: S311 - no key
    device = PoweredDevice(
        open_device, mains, emit=lambda event, **fields: events.append((event, fields)), wake=woken.append
    )
    return Bench(clock, lives, woken, events, device)


def test_step_comes_when_it_is_due_and_not_before_what_is_owed() -> None:
    """Woken early it is stepped early, but never before the network's time has passed."""
    found = bench(owes=4.0)
    assert found.step() == 10.0
    found.clock.turn(seconds=3)
    assert found.step() == 10.0
    found.device.rouse()
    assert found.woken == [found.device]
    assert found.step() == 10.0
    assert len(found.lives[0].steps) == 1
    found.clock.turn(seconds=1)
    assert found.step() == 14.0
    assert found.lives[0].steps == [0.0, 4.0]


def test_connections_are_let_go_where_nothing_is_to_do_for_a_while() -> None:
    """A device that goes on at once keeps its connection."""
    idle, busy = bench(due=3.0), bench(due=1.0)
    idle.step()
    busy.step()
    assert (idle.lives[0].said, busy.lives[0].said) == (["let go"], [])


def test_power_cut_ends_a_life_without_a_word_and_another_one_begins() -> None:
    """What waited is dropped, what was counted stays, and the device boots from its folder again."""
    found = bench()
    found.step()
    found.device.cut_power(5.0)
    assert found.step() == 5.0
    assert found.lives[0].said == ["let go", "closed without a word"]
    assert found.events == [("power", {"on": False})]
    assert found.device.counts == LinkCounts(sent=5, acknowledged=3, dropped=1, waiting=2)
    found.device.drain(1.0)
    found.clock.turn(seconds=2)
    assert found.step() == 5.0
    found.clock.turn(seconds=3)
    assert found.step() == 15.0
    assert found.events[1:] == [("power", {"on": True})]
    assert found.device.counts == LinkCounts(sent=10, acknowledged=6, dropped=4, waiting=2)
    assert found.device.figures == {Core.M4_0: CoreFigures(2, "model@1", 7.0, 14.0)}
    found.device.close()
    assert found.lives[1].said[-1] == "closed"


def test_cuts_come_by_chance_with_the_declared_mean() -> None:
    """24 a day for 20 s each; a brown-out within a step is one, too."""
    found = bench(per_day=24.0)
    now, end = 0.0, 10 * 86_400.0
    while now < end:
        now = found.step()
        found.clock.at = START + timedelta(seconds=now + 0.001)  # a clock of microseconds is a little early
    cuts = sum(event == ("power", {"on": False}) for event in found.events)
    assert cuts == pytest.approx(240, abs=60)
    brown = bench(fails=True)
    assert brown.step() == 20.0
    assert brown.events == [("power", {"on": False})]


def test_work_on_a_device_waits_for_the_end_of_a_step() -> None:
    """A job, a load that outlives a power cut, and what is done to a stolen device before it comes back."""
    found = bench()
    done: list[str] = []
    found.device.between_steps(lambda: done.append("job"))
    found.device.between_steps(lambda: found.device.set_load(3.0))
    assert done == []
    found.step()
    assert (done, found.lives[0].said[0]) == (["job"], "load 3.0")
    found.device.cut_power(1.0, before_return=lambda: done.append("broken open"))
    found.step()
    assert done == ["job"]
    found.clock.turn(seconds=1)
    found.step()
    assert (done, found.lives[1].said[0]) == (["job", "broken open"], "load 3.0")


def test_device_that_is_stolen_while_it_is_off_stays_away() -> None:
    """What is asked of a device without power counts from then on, and no later cut repeats it."""
    found = bench()
    done: list[str] = []
    found.device.cut_power(10.0)
    found.step()
    found.clock.turn(seconds=5)
    found.device.cut_power(100.0, before_return=lambda: done.append("broken open"))
    assert found.step() == 105.0
    found.device.cut_power(1.0)
    assert found.step() == 105.0
    found.clock.turn(seconds=100)
    assert found.step() == 115.0
    assert done == ["broken open"]
    found.device.cut_power(2.0)
    assert found.step() == 107.0


def test_rhythm_of_power_cuts_changes_and_comes_back() -> None:
    """A crash loop ends when the device does not run what makes it crash any more."""
    found = bench()
    found.device.fail_often(PowerCycles(per_day=8640), since=0.0)
    assert found.step() < 60.0
    found.clock.turn(minutes=1)
    found.step()
    found.device.fail_as_usual()
    assert found.step() == 70.0
    found.clock.turn(days=1)
    found.step()
    assert len(found.lives) == 2


def test_device_without_power_for_good_is_never_stepped_again() -> None:
    """As one that a thief keeps."""
    found = bench()
    found.device.cut_power(math.inf)
    assert found.step() == math.inf
    found.device.fail_often(PowerCycles(per_day=1), since=50.0)
    found.clock.turn(days=1)
    assert found.step() == math.inf
    found.device.close()
    assert found.lives[0].said == ["closed without a word"]
