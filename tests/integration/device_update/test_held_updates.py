"""Updates that wait on a device: downloads that are kept, and models in shadow on the simulated cores."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from device_sim.hardware.spare import SpareState
from device_sim.runtime.inference import CoreWatch
from protocol.geometry import Core, Slot
from protocol.image import digest_of
from protocol.messages import ActionState, Cause
from protocol.model import InputContract
from protocol.scenario import FaultKind, KernelFault, Scenario
from protocol.shadow import ShadowTask
from protocol.updates import Order
from tests.unit.device_update.update_builder import FRAME, PREFIX, Updated, info_of, ready_device

SLOT = Slot.M4_0_MODEL
CORE = Core.M4_0
COLOURED = np.tile(np.array([250, 120, 10], np.uint8), (8, 8, 1))
TASK = ShadowTask(frames=5, longest_seconds=3600)


class StillCamera:
    """Always the same frame."""

    def take(self, core: Core, contract: InputContract, *, at_seconds: float) -> np.ndarray:
        del core, contract, at_seconds
        return COLOURED


def order(device: Updated, what: Order, task: ShadowTask | None = None) -> None:
    """Have the Director sign another order for the same action."""
    device.catalog.order, device.catalog.shadow = what, task
    device.catalog.publish()


def offer(device: Updated, what: Order = Order.DOWNLOAD, task: ShadowTask | None = None) -> bytes:
    """Roll out a model with an order."""
    device.catalog.order, device.catalog.shadow = what, task
    return device.offer_model()


def test_download_is_kept_until_the_order_changes(tmp_path: Path) -> None:
    """The old model runs on over a restart, the spare holds the new one whole; then it installs without fetching."""
    device = ready_device(tmp_path)
    before = device.digests()
    package = offer(device)
    device.run()
    assert device.wire.states == [ActionState.DOWNLOADING, ActionState.DOWNLOADED]
    assert device.progress.holds == (device.catalog.action_id, Order.DOWNLOAD)
    assert device.machine.spare_read(0, len(package)) == package
    device.restart()
    assert device.progress.unfinished_action == device.catalog.action_id
    image = f"{PREFIX}/artifacts/{digest_of(package)}"
    assert image in device.wire.requests
    device.wire.requests.clear()
    device.run()
    assert device.wire.states[2:] == []
    assert device.digests() == before
    order(device, Order.INSTALL)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED
    assert device.digests() != before
    assert image not in device.wire.requests


def test_release_of_several_images_keeps_the_first_and_says_so(tmp_path: Path) -> None:
    """There is one spare; the others are fetched when it installs."""
    device = ready_device(tmp_path)
    images = {}
    for slot in (SLOT, Slot.M4_1_MODEL):
        package = device.model(slot)
        golden = device.catalog.add_golden(info_of(package).component_id)
        images[slot] = device.catalog.add_image(slot, package, golden=golden)
    device.catalog.order = Order.DOWNLOAD
    device.catalog.roll_out(images)
    device.run()
    assert device.machine.spare.slot is SLOT
    assert device.wire.reports[-1].detail.endswith("1 more when it is installed")
    order(device, Order.INSTALL)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED


def test_action_that_was_taken_back_frees_the_spare(tmp_path: Path) -> None:
    """The Director lists nothing any more: the image goes, and the action is forgotten."""
    device = ready_device(tmp_path)
    offer(device)
    device.run()
    device.catalog.director_targets = []
    device.catalog.order = Order.INSTALL
    device.catalog.publish()
    device.run()
    assert device.machine.spare.state is SpareState.EMPTY
    assert device.progress.unfinished_action is None


def test_newer_release_takes_the_spare(tmp_path: Path) -> None:
    """What waits makes room for what is to be installed now."""
    device = ready_device(tmp_path)
    offer(device)
    device.run()
    device.catalog.action_id = "33333333-3333-4333-8333-333333333333"
    device.catalog.order = Order.INSTALL
    newer = device.offer_model(version="3.0.0", counter=3)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED
    assert device.machine.installed()[SLOT].image_id == info_of(newer).image_id


def in_shadow(tmp_path: Path, *, task: ShadowTask = TASK, scenario: Scenario | None = None) -> Updated:
    """A device that has begun to compare."""
    device = ready_device(tmp_path, scenario=scenario)
    offer(device, Order.SHADOW, task)
    device.run()
    assert device.wire.states == [ActionState.DOWNLOADING, ActionState.SHADOWING]
    return device


def compare(device: Updated, frames: int, *, period: float = 1.0) -> list[float]:
    """Let both cores infer for some periods; return when each inference of the shadowed core ended."""
    clock = device.builder.clock
    watches = {
        core: CoreWatch(core, device.machine, StillCamera(), period_seconds=period) for core in (CORE, Core.M4_1)
    }
    ends: list[float] = []
    for watch in watches.values():
        watch.run()
    while len(ends) < frames:
        clock.seconds = max(clock.seconds, min(watch.due for watch in watches.values()))
        for core, watch in watches.items():
            record = watch.run() if watch.due <= clock.seconds + 1e-9 else None
            if record is not None and core is CORE:
                assert record.device_seconds is not None
                assert record.model.endswith("1.0.0")
                ends.append(record.device_seconds)
    return ends


def test_model_in_shadow_is_heard_by_nobody_and_counted(tmp_path: Path) -> None:
    """Every record is the old model's, at its old period; the counts are there after so many frames as were asked."""
    device = in_shadow(tmp_path)
    ends = compare(device, 7)
    gaps = [later - earlier for earlier, later in itertools.pairwise(ends)]
    assert gaps == pytest.approx([1.0] * 6)
    shadow = device.machine.shadow
    assert shadow is not None
    result = shadow.result
    assert result is not None
    assert (result.frames, result.agreements, result.failure) == (5, 5, "")
    assert device.machine.cores[CORE].resets == device.machine.cores[Core.M4_1].resets == 0


def test_model_that_answers_otherwise_is_told_by_pairs_of_labels(tmp_path: Path) -> None:
    """What differs is counted by the two labels; no frame leaves the device."""
    fault = KernelFault(model="colour@2.0.0", kind=FaultKind.GARBAGE)
    device = in_shadow(tmp_path, scenario=Scenario(kernel_faults=(fault,)))
    compare(device, 6)
    assert device.machine.shadow is not None
    result = device.machine.shadow.result
    assert result is not None
    assert (result.frames, result.agreements) == (5, 0)
    assert list(result.differing.values()) == [5]


@pytest.mark.parametrize("kind", [FaultKind.CRASH, FaultKind.HANG])
def test_candidate_that_breaks_is_contained(tmp_path: Path, kind: FaultKind) -> None:
    """It costs its slice and a reset; the old model answers every frame, and the sibling knows nothing."""
    fault = KernelFault(model="colour@2.0.0", kind=kind, after_inferences=2)
    device = in_shadow(tmp_path, scenario=Scenario(kernel_faults=(fault,)))
    ends = compare(device, 8)
    assert max(later - earlier for earlier, later in itertools.pairwise(ends)) < 1.2
    assert device.machine.shadow is not None
    result = device.machine.shadow.result
    assert result is not None
    assert result.frames == 2
    assert kind.value in result.failure
    assert device.machine.cores[Core.M4_1].resets == 0
    assert device.machine.cores[CORE].infer(FRAME).cause is None


def test_restart_loses_the_counts_and_begins_again(tmp_path: Path) -> None:
    """They are in memory; the image in the spare and the order are not."""
    device = in_shadow(tmp_path)
    compare(device, 3)
    device.restart()
    device.run()
    begun_again = device.machine.shadow
    assert begun_again is not None
    assert begun_again.result is None
    assert device.wire.states == [ActionState.DOWNLOADING, ActionState.SHADOWING]


def test_counts_that_were_reported_are_not_made_again(tmp_path: Path) -> None:
    """After a restart the device waits, and installs once it is told so."""
    device = in_shadow(tmp_path)
    compare(device, 6)
    ended = device.machine.shadow
    assert ended is not None
    device.progress.report(ActionState.SHADOWING, shadow=ended.result)
    device.restart()
    device.run()
    assert device.wire.states.count(ActionState.SHADOWING) == 2
    assert device.progress.holds == (device.catalog.action_id, Order.SHADOW)
    order(device, Order.INSTALL)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED


def test_shadow_of_anything_but_a_model_is_refused(tmp_path: Path) -> None:
    """An application has nothing to compare."""
    device = ready_device(tmp_path)
    package = device.builder.packages.image(Slot.A7_APPLICATION, version="2.0.0", size=5000)
    device.catalog.order, device.catalog.shadow = Order.SHADOW, TASK
    device.catalog.roll_out({Slot.A7_APPLICATION: device.catalog.add_image(Slot.A7_APPLICATION, package)})
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.cause, report.rule) == (ActionState.FAILED, Cause.REQUIREMENT, "ShadowRefusedError")


def test_core_without_time_between_answers_cannot_compare(tmp_path: Path) -> None:
    """There is no slice to give, so the comparison says why and ends."""
    device = in_shadow(tmp_path)
    shadow = device.machine.shadow
    assert shadow is not None
    assert not shadow.takes_frame(period=0.2, incumbent=0.2, candidate=0.1)
    assert shadow.result is None
    assert "expected time between two answers" in shadow.refusal


def test_models_that_do_not_fit_into_a_period_compare_each_kth_frame(tmp_path: Path) -> None:
    """The smallest k whose periods have room for k answers and one of the candidate."""
    device = in_shadow(tmp_path)
    shadow = device.machine.shadow
    assert shadow is not None
    taken = [shadow.takes_frame(period=1.0, incumbent=0.4, candidate=1.5) for _ in range(7)]
    assert taken == [True, False, False, True, False, False, True]


def test_comparison_without_a_frame_ends_with_a_reason(tmp_path: Path) -> None:
    """Nothing was seen in all of its time: that is no disagreement."""
    device = in_shadow(tmp_path)
    device.builder.clock.seconds += TASK.longest_seconds
    assert device.machine.shadow is not None
    assert device.machine.shadow.result is None
    assert "expected a frame to compare within 3600 s" in device.machine.shadow.refusal
