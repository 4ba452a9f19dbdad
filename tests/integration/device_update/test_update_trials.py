"""Trials on the simulated cores: what passes is confirmed, what fails reverts, and the sibling runs on throughout."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from typing_extensions import override

from device_sim.errors import DeviceSimError
from device_sim.hardware.spare import SpareState
from device_sim.network.attestation import AttestationRefusedError
from device_sim.network.ports import HttpResponse, UnreachableError
from device_sim.update.download import CHUNK_BYTES
from device_sim.update.installer import REACH_ATTEMPTS
from protocol.geometry import Core, Slot
from protocol.messages import ActionState, Cause
from protocol.scenario import FaultKind, KernelFault, Scenario
from tests.unit.device_hardware.device_builder import ColourInference
from tests.unit.device_update.update_builder import ACTION, FRAME, Updated, info_of, ready_device, with_reach
from tinyml.errors import PoolBusyError
from tinyml.workers import InferenceResult, ModelImage

SLOT = Slot.M4_0_MODEL
A7 = Slot.A7_APPLICATION


def digest_of(package: bytes) -> str:
    return hashlib.sha256(package).hexdigest()


def big_model(device: Updated, *, version: str = "2.0.0") -> bytes:
    """A model that takes four ranges to download."""
    package = device.builder.packages.model(SLOT, version=version, padding=3 * CHUNK_BYTES)
    golden = device.catalog.add_golden(info_of(package).component_id)
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, package, golden=golden)})
    return package


def application(device: Updated, *, version: str = "2.0.0") -> bytes:
    package = device.builder.packages.image(A7, version=version, size=5000)
    device.catalog.roll_out({A7: device.catalog.add_image(A7, package)})
    return package


def test_model_is_confirmed_after_its_trial(tmp_path: Path) -> None:
    """A good model runs its golden vectors, is copied home, and is what runs after a restart."""
    device = ready_device(tmp_path)
    package = big_model(device)
    device.run()
    assert device.wire.states == [
        ActionState.DOWNLOADING,
        ActionState.INSTALLING,
        ActionState.TRIAL,
        ActionState.CONFIRMED,
    ]
    assert [report.sequence for report in device.wire.reports] == [0, 1, 2, 3]
    assert device.wire.reports[-1].digests[SLOT] == digest_of(package)
    device.restart()
    assert device.digests()[SLOT] == digest_of(package)


def test_sibling_answers_between_all_steps_of_a_trial(tmp_path: Path) -> None:
    """m4-1 runs its own model at every step of an update of m4-0."""
    device = ready_device(tmp_path)
    big_model(device)
    sibling, before = device.machine.cores[Core.M4_1], device.machine.installed()[Slot.M4_1_MODEL].digest
    steps = 0
    for _ in device.client.run(ACTION):
        steps += 1
        outcome = sibling.infer(FRAME)
        assert (outcome.cause, outcome.model_sha256) == (None, before)
    assert steps > 8
    assert sibling.resets == 0


def test_release_for_all_cores_installs_one_after_the_other(tmp_path: Path) -> None:
    """Both models and the application share one spare; the application comes last."""
    device = ready_device(tmp_path)
    images = {}
    for slot in (A7, Slot.M4_1_MODEL, SLOT):
        is_model = slot is not A7
        package = device.model(slot) if is_model else device.builder.packages.image(slot, version="2.0.0")
        golden = device.catalog.add_golden(info_of(package).component_id) if is_model else None
        images[slot] = device.catalog.add_image(slot, package, golden=golden)
    device.catalog.roll_out(images)
    device.run()
    trials = [report.detail for report in device.wire.reports if report.state is ActionState.TRIAL]
    assert trials == ["colour@2.0.0", "colour@2.0.0", "application@2.0.0"]
    assert device.wire.states[-1] is ActionState.CONFIRMED


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (FaultKind.GARBAGE, Cause.GOLDEN_VECTORS),
        (FaultKind.HANG, Cause.HANG),
        (FaultKind.CRASH, Cause.CRASH),
    ],
)
def test_model_that_fails_on_the_device_reverts(tmp_path: Path, kind: FaultKind, cause: Cause) -> None:
    """A declared fault of the kernel strikes only on the device: the old model runs again, and the report says why."""
    fault = KernelFault(model="colour@2.0.0", kind=kind)
    device = ready_device(tmp_path, scenario=Scenario(kernel_faults=(fault,)))
    before = device.digests()
    device.offer_model()
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.cause) == (ActionState.REVERTED, cause)
    assert report.detail
    assert report.digests == device.digests() == before
    assert device.machine.spare.state is SpareState.EMPTY
    assert device.machine.cores[Core.M4_0].infer(FRAME).cause is None


def test_fault_that_strikes_after_the_golden_vectors_reverts(tmp_path: Path) -> None:
    """A model that answers its vectors but not the camera is not confirmed."""
    fault = KernelFault(model="colour@2.0.0", kind=FaultKind.HANG, after_inferences=2)
    device = ready_device(tmp_path, scenario=Scenario(kernel_faults=(fault,)))
    before = device.digests()
    device.offer_model()
    device.run()
    assert (device.wire.reports[-1].state, device.wire.reports[-1].cause) == (ActionState.REVERTED, Cause.HANG)
    assert device.digests() == before


def test_model_that_does_not_answer_its_vectors_reverts(tmp_path: Path) -> None:
    """The model runs, but its answers are not those that the component has to give."""
    device = ready_device(tmp_path)
    before = device.digests()
    package = device.model()
    golden = device.catalog.add_golden(info_of(package).component_id, expected=9.0)
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, package, golden=golden)})
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.cause) == (ActionState.REVERTED, Cause.GOLDEN_VECTORS)
    assert "expected a difference of at most 0.01, found 4" in report.detail
    assert device.digests() == before


def test_model_over_the_memory_budget_fails_in_boot(tmp_path: Path) -> None:
    """A signed model that no core can hold never runs, and the old one goes on."""
    device = ready_device(tmp_path)
    before = device.digests()
    package = device.builder.packages.model(SLOT, version="2.0.0", arena=400_000)
    golden = device.catalog.add_golden(info_of(package).component_id)
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, package, golden=golden)})
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.cause) == (ActionState.FAILED, Cause.BOOT)
    assert device.digests() == before
    assert device.machine.cores[Core.M4_0].is_running


def test_image_that_does_not_fit_its_home_fails_in_flash(tmp_path: Path) -> None:
    """An application larger than its home slot is refused before a byte is fetched."""
    device = ready_device(tmp_path)
    package = device.builder.packages.image(A7, version="2.0.0", size=130_000)
    device.catalog.roll_out({A7: device.catalog.add_image(A7, package)})
    device.run()
    assert (device.wire.reports[-1].state, device.wire.reports[-1].cause) == (ActionState.FAILED, Cause.FLASH)
    assert not any(path.endswith(digest_of(package)) for path in device.wire.requests)


def test_application_is_confirmed_when_it_reached_the_service(tmp_path: Path) -> None:
    """A new A7 application attests as what is on trial before it is confirmed."""
    device = ready_device(tmp_path)
    package = application(device)
    measured: list[bytes] = []
    client = with_reach(device, lambda: measured.extend(part.measurement for part in device.machine.components()))
    for _ in client.run(ACTION):
        pass
    assert bytes.fromhex(digest_of(package)) in measured
    assert device.digests()[A7] == digest_of(package)


@pytest.mark.parametrize(
    ("error", "attempts"), [(UnreachableError("no way"), REACH_ATTEMPTS), (AttestationRefusedError("not listed"), 1)]
)
def test_application_that_does_not_reach_the_service_reverts(
    tmp_path: Path, error: DeviceSimError, attempts: int
) -> None:
    """An unreachable service is asked a few times, a refusal ends the trial at once; the old application runs."""
    device = ready_device(tmp_path)
    before = device.digests()
    application(device)
    asked: list[None] = []

    def fail() -> None:
        asked.append(None)
        raise error

    for _ in with_reach(device, fail).run(ACTION):
        pass
    device.progress.send(device.wire)
    report = device.wire.reports[-1]
    assert (report.state, report.cause, len(asked)) == (ActionState.REVERTED, Cause.BOOT, attempts)
    assert str(error) in report.detail
    assert device.digests() == before


class BusyInference(ColourInference):
    """A pool whose workers are all busy the first few times."""

    def __init__(self, times: int) -> None:
        self.times = times

    @override
    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:
        if self.times:
            self.times -= 1
            raise PoolBusyError("every worker is busy")
        return super().invoke(model, input, deadline_seconds=deadline_seconds)


def test_busy_host_is_no_fault_of_the_model(tmp_path: Path) -> None:
    """The device asks again when the host's inference pool has no free worker."""
    device = ready_device(tmp_path, pool=BusyInference(3))
    package = device.offer_model()
    device.run()
    assert device.digests()[SLOT] == digest_of(package)


def test_kill_after_any_step_is_taken_up_again(tmp_path: Path) -> None:
    """Whatever the step after which the simulator is killed, the restarted device ends confirmed and says so."""
    device = ready_device(tmp_path)
    package = big_model(device)
    for killed_after in range(1, 40):
        device.catalog.action_id = f"22222222-2222-4222-8222-{killed_after:012d}"
        package = big_model(device, version=f"2.0.{killed_after}")
        steps = device.client.run(device.catalog.action_id)
        done = sum(1 for _, _ in zip(range(killed_after), steps, strict=False))
        device.restart()
        assert device.machine.spare.state in (SpareState.EMPTY, SpareState.FILLING)
        assert device.progress.unfinished_action in (device.catalog.action_id, None)
        device.run()
        report = device.wire.reports[-1]
        assert (report.action_id, report.state) == (device.catalog.action_id, ActionState.CONFIRMED)
        assert device.digests()[SLOT] == digest_of(package)
        if done < killed_after:
            break
    else:
        raise AssertionError("expected an update of fewer steps")


def test_trial_cut_twice_reverts(tmp_path: Path) -> None:
    """A model whose trials always end in a restart is given up, with what happened in the report."""
    device = ready_device(tmp_path)
    before = device.digests()
    device.offer_model()
    for _ in range(2):
        for _ in device.client.run(ACTION):
            if device.machine.spare.state is SpareState.TRIAL:
                break
        device.restart()
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.cause) == (ActionState.REVERTED, Cause.BOOT)
    assert "cut off 2 times" in report.detail
    assert device.digests() == before


def test_known_end_is_reported_again(tmp_path: Path) -> None:
    """A service that lost the last report offers the action again and hears the same end, without a second update."""
    device = ready_device(tmp_path)
    device.offer_model()
    device.run()
    reports = list(device.wire.reports)
    device.run()
    assert device.wire.reports == [*reports, reports[-1]]


@pytest.mark.parametrize("fails_at", range(1, 14))
def test_connection_lost_at_any_request_is_tried_again(tmp_path: Path, fails_at: int) -> None:
    """Every request of an update may fail once; the update goes on where it was."""
    device = ready_device(tmp_path)
    package = big_model(device)
    device.wire.hook = _fail_once(fails_at)
    device.run()
    assert device.digests()[SLOT] == digest_of(package)
    assert device.wire.states[-1] is ActionState.CONFIRMED


def _fail_once(at: int) -> Callable[[str, Mapping[str, str]], HttpResponse | UnreachableError | None]:
    asked: list[str] = []

    def hook(path: str, _headers: Mapping[str, str]) -> HttpResponse | UnreachableError | None:
        if not path.startswith("/device/v1/uptane") and not path.startswith("/device/v1/artifacts"):
            return None
        asked.append(path)
        return UnreachableError("connection reset") if len(asked) == at else None

    return hook
