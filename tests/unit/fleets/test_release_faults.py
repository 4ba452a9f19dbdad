"""Releases that are bad for a device: what strikes where, on a device that really updates."""

import itertools
import math
import random
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from device_sim.adapters.clock import WallClock
from device_sim.cores.kernels import WATCHDOG_MS
from device_sim.fleets.plan import plan_device
from device_sim.fleets.powered import PoweredDevice
from device_sim.fleets.release_faults import BadReleases, FaultyTrust, SpoiltInference, less_sure, release_faults_of
from device_sim.network.attestation import Admission
from device_sim.network.quality import NetworkPath, Surrounds
from device_sim.network.shaped import ShapedTransport
from device_sim.network.wire import WireMeter
from device_sim.update.download import verify_spare
from device_sim.update.installer import Installer
from device_sim.update.uptane import ImageTarget, Instruction, UptaneClient
from protocol.geometry import Slot
from protocol.messages import ActionState, Cause
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault
from protocol.scenario.network import NetworkQuality
from tests.unit.device_hardware.device_builder import ColourInference
from tests.unit.device_hardware.slow_model import slow_model
from tests.unit.device_update.update_builder import FRAME, Updated, ready_device
from tinyml.images import ModelImage

MANY_STEPS = 300  # of an update that never ends


@dataclass
class Power:
    """Takes the orders that a device's power gets."""

    cuts: list[float] = field(default_factory=list)
    rhythms: list[float] = field(default_factory=list)
    usual: int = 0

    def cut_power(self, lasts_seconds: float) -> None:
        self.cuts.append(lasts_seconds)

    def fail_often(self, _cycles: object, *, since: float) -> None:
        self.rhythms.append(since)

    def fail_as_usual(self) -> None:
        self.usual += 1


@dataclass(frozen=True, slots=True)
class UpdateTrust:
    """The trust of a device that does not attest here."""

    uptane: UptaneClient

    def attest(self) -> Admission:
        raise AssertionError("nobody attests here")

    def check(self, transport: Any, now: Any, **known: Any) -> Any:
        return self.uptane.check(transport, now, **known)

    def verify(self, machine: Any, target: Any, *, package_keys: Any) -> None:
        verify_spare(machine, target, package_keys=package_keys)


@dataclass
class Suffering:
    """A device with a bad release."""

    device: Updated
    releases: BadReleases
    now: list[float]
    power: Power = field(default_factory=Power)

    def update(self) -> list[tuple[ActionState, Cause | None]]:
        """Run an action to its end, or for many steps, and return what was reported."""
        for _ in itertools.islice(self.device.client.run(self.device.catalog.action_id), MANY_STEPS):
            pass
        self.device.progress.send(self.device.wire)
        return [(report.state, report.cause) for report in self.device.wire.reports]

    def tell(self, state: ActionState) -> None:
        self.hear("update", state=state.value)

    def hear(self, event: str, **fields: object) -> None:
        self.releases.hear(event, fields, cast("PoweredDevice", self.power))


def suffering(tmp_path: Path, kind: str, *, content: bytes = b"", **changes: Any) -> Suffering:
    """A device to which a release with one image, a model, is offered."""
    now = [0.0]
    fault = ReleaseFault.model_validate({"release": "*", "kind": kind, **changes})
    releases = BadReleases([fault], monotonic=lambda: now[0])
    device = ready_device(tmp_path, pool=SpoiltInference(ColourInference(), releases), strain=releases)
    device.offer_model(content=content)
    clock = WallClock()
    where = Surrounds(NetworkQuality(), timedelta(0), clock.now())
    path = NetworkPath(where, clock=clock, draw=random.Random, meter=WireMeter())
    path.interference = releases.interfere
    transport = ShapedTransport(device.wire, path, limit_seconds=30)
    trust = FaultyTrust(UpdateTrust(cast("UptaneClient", device.client.uptane)), releases)
    installer = Installer(
        device.machine,
        device.progress,
        package_keys=[device.builder.packages.keys.package.public_key],
        look=lambda _core: FRAME,
        reach_service=lambda: None,
        verify=trust.verify,
    )
    device.client = replace(device.client, uptane=trust, installer=installer, transport=lambda: transport)
    return Suffering(device, releases, now)


@pytest.mark.parametrize(
    ("kind", "state", "cause"),
    [
        ("verify", ActionState.FAILED, Cause.VERIFY),
        ("flash", ActionState.FAILED, Cause.FLASH),
        ("boot", ActionState.FAILED, Cause.BOOT),
        ("golden-vectors", ActionState.REVERTED, Cause.GOLDEN_VECTORS),
    ],
)
def test_bad_release_ends_as_its_kind_says(tmp_path: Path, kind: str, state: ActionState, cause: Cause) -> None:
    """The device finds it by its own means, reports the cause, and keeps what it ran."""
    found = suffering(tmp_path, kind)
    before = found.device.digests()
    assert found.update()[-1] == (state, cause)
    assert found.device.digests() == before


def test_link_that_gives_up_in_the_middle_ends_nothing(tmp_path: Path) -> None:
    """The device tries again and again: the service's time-out ends the action."""
    found = suffering(tmp_path, "download")
    assert {state for state, _ in found.update()} == {ActionState.DOWNLOADING}
    assert len(found.device.wire.requests) > MANY_STEPS // 3


def test_drifting_release_is_confirmed_and_loses_its_confidence(tmp_path: Path) -> None:
    """After its time, and where it strikes in the dark alone, only there."""
    found = suffering(tmp_path, "drift", after="1m", factor=0.25, only_in_the_dark=True)
    assert found.update()[-1] == (ActionState.CONFIRMED, None)
    found.tell(ActionState.CONFIRMED)
    core, red = found.device.machine.cores[Slot.M4_0_MODEL.core], FRAME.copy()
    red[..., 0] = 250
    usual = core.infer(red).score
    found.now[0] = 61.0
    assert core.infer(red).score == usual
    found.releases.is_dark = lambda: True
    assert core.infer(red).score < usual


def test_slow_release_is_confirmed_and_takes_longer_from_its_time_on(tmp_path: Path) -> None:
    """By the factor, in the latency that the core reports and that device time goes by; in the dark alone, if so."""
    found = suffering(tmp_path, "slow", content=slow_model(), after="1m", factor=4, only_in_the_dark=True)
    assert found.update()[-1] == (ActionState.CONFIRMED, None)
    found.tell(ActionState.CONFIRMED)
    core = found.device.machine.cores[Slot.M4_0_MODEL.core]
    usual = core.infer(FRAME).m4_ms
    found.now[0] = 61.0
    assert core.infer(FRAME).m4_ms == usual
    found.releases.is_dark = lambda: True
    assert core.infer(FRAME).m4_ms == pytest.approx(4 * usual)
    assert core.latency_seconds == pytest.approx(4 * usual / 1000)
    assert 200 < usual < 400


def test_release_that_is_too_slow_hangs_in_the_watchdog(tmp_path: Path) -> None:
    """No answer comes any more, and nobody waits for longer than the watchdog does."""
    found = suffering(tmp_path, "slow", content=slow_model(), factor=10)
    found.update()
    found.tell(ActionState.CONFIRMED)
    core = found.device.machine.cores[Slot.M4_0_MODEL.core]
    assert core.infer(FRAME).cause is Cause.HANG
    assert core.latency_seconds == WATCHDOG_MS / 1000


@pytest.mark.parametrize(
    ("output", "drifted"),
    [
        (np.array([0.9, 0.1], np.float32), [0.7, 0.3]),
        (np.array([127, -128], np.int8), [63, -64]),
        (np.array([255, 0], np.uint8), [191, 64]),
    ],
)
def test_drifted_answer_is_nearer_to_its_mean(output: np.ndarray, drifted: list[float]) -> None:
    """The factor is one of the confidence, and no integer leaves its type."""
    found = less_sure(output, 0.5)
    assert found.dtype == output.dtype
    assert found.tolist() == pytest.approx(drifted)


def test_brick_and_crash_loop_take_the_power(tmp_path: Path) -> None:
    """One for good and in mid update, the other from its time after the confirmation on."""
    brick = suffering(tmp_path / "brick", "brick")
    brick.update()
    brick.tell(ActionState.DOWNLOADING)
    assert brick.power.cuts == []
    brick.tell(ActionState.INSTALLING)
    assert brick.power.cuts == [math.inf]
    loop = suffering(tmp_path / "loop", "crash-loop", after="2m")
    loop.update()
    loop.tell(ActionState.CONFIRMED)
    loop.now[0] = 119.0
    loop.hear("counts")
    assert (loop.power.cuts, loop.power.rhythms) == ([], [])
    loop.now[0] = 121.0
    loop.hear("counts")
    assert (loop.power.cuts, loop.power.rhythms) == ([], [121.0])


def test_crash_loop_ends_with_another_release(tmp_path: Path) -> None:
    """It strikes once, however often the release is confirmed, and no more when its slot has another."""
    loop = suffering(tmp_path, "crash-loop", release="a")
    for name in ("a", "a", "b", "b"):
        release = SimpleNamespace(name=name)
        target = SimpleNamespace(slot=Slot.M4_0_MODEL, sha256="ab" * 32, patch=None, release=release)
        loop.releases.arm(Instruction(action_id=None, targets=(cast("ImageTarget", target),)))
        loop.tell(ActionState.CONFIRMED)
    assert (loop.power.rhythms, loop.power.usual) == ([0.0], 1)


def test_brick_that_waits_is_confirmed_and_goes_silent_in_the_dark(tmp_path: Path) -> None:
    """After its time, once, and not before it is dark."""
    brick = suffering(tmp_path, "brick", after="1m", only_in_the_dark=True)
    assert brick.update()[-1] == (ActionState.CONFIRMED, None)
    for state in (ActionState.INSTALLING, ActionState.CONFIRMED):
        brick.tell(state)
    brick.now[0] = 60.0
    brick.hear("counts")
    assert brick.power.cuts == []
    brick.releases.is_dark = lambda: True
    brick.hear("counts")
    brick.hear("counts")
    assert brick.power.cuts == [math.inf]


def test_other_models_and_releases_are_left_alone(tmp_path: Path) -> None:
    """A fault of another release strikes nothing; neither does a model that the release did not bring."""
    found = suffering(tmp_path, "golden-vectors", release="another")
    assert found.update()[-1] == (ActionState.CONFIRMED, None)
    strange = ModelImage(b"strange", 1)
    answer = ColourInference().invoke(strange, np.ones(3, np.float32), deadline_seconds=1)
    assert found.releases.spoil(strange, answer) is answer


def test_share_revision_and_region_decide_who_has_a_fault() -> None:
    """By the device's id and the seed."""
    scenario = Scenario.model_validate(
        {
            "regions": {"north": {}},
            "fleets": [{"name": "gates", "devices": 300, "regions": {"north": 1}}],
            "release_faults": [
                {"release": "*", "kind": "boot", "share": 0.5},
                {"release": "*", "kind": "brick", "region": "north"},
            ],
        }
    )
    plan = plan_device(scenario, scenario.fleets[0], 0)
    nowhere = replace(plan, region=None)
    found = [release_faults_of(scenario, plan, f"{number:0128x}") for number in range(300)]
    assert 100 < sum(len(faults) == 2 for faults in found) < 200
    assert all(faults[-1].kind == "brick" for faults in found)
    assert max(len(release_faults_of(scenario, nowhere, f"{number:0128x}")) for number in range(20)) == 1
