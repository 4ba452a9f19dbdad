"""Cut the power at every operation while a core learns, and while a template takes another one's place.

After every cut must hold:
    1. the next boot succeeds, and the core learns or judges;
    2. what is kept is a whole state: of as many windows as the last one that was kept before the cut, or the next;
    3. an update that was cut has lost nothing: the state is there until a confirmed template resets it.
"""

import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from device_sim.errors import PowerCutError
from device_sim.hardware.machine import Machine
from device_sim.hardware.power import PowerSupply
from device_sim.learning.learner import KEPT_EVERY
from device_sim.learning.states import LearnedStates
from protocol.geometry import Core, Slot
from protocol.learned_state import parse_state
from protocol.learning import LearningTemplate, StatePolicy
from tests.learning_template import learning_template, template_card, template_payload
from tests.unit.device_hardware.device_builder import DeviceBuilder, install_trial
from tests.unit.tinyml.synthetic_vibration import synthetic_machine

SLOT = Slot.M4_1_MODEL
COMPONENT = str(uuid.uuid5(uuid.NAMESPACE_URL, SLOT))
WARM_UP = 3 * KEPT_EVERY
WINDOWS = synthetic_machine(4).windows(np.random.default_rng(4), WARM_UP)


class LearningCampaign:
    """One device that runs a template, copied for every cut."""

    def __init__(self, folder: Path, *, learned: int) -> None:
        self.builder = DeviceBuilder(folder / "start")
        machine = self.builder.ready()
        machine.flash_factory({SLOT: self.package(learning_template(warm_up=WARM_UP))})
        machine.boot()
        learn(machine, WINDOWS[:learned])
        machine.close()
        self._start, self._copies = machine.folder, folder / "copies"

    def package(self, template: LearningTemplate, *, version: str = "1.0.0") -> bytes:
        card = template_card(template, version=version, component=COMPONENT)
        payload = template_payload(template, card)
        return self.builder.packages._compose(SLOT, payload, f"vibration@{version}", security=1, key=None)

    def cuts(self, work: Callable[[Machine], object]) -> Iterator[Machine]:
        """Yield the device after each cut of the work, booted again."""
        for index in range(self._operations(work)):
            folder = self._copy(f"{index}")
            machine = self.builder.open(folder, power=PowerSupply(fails_at=index, share=0.5))
            with pytest.raises(PowerCutError):
                _boot_and(work, machine)
            machine.close()
            again = self.builder.open(folder)
            again.boot()
            yield again
            again.close()
            shutil.rmtree(folder)

    def _operations(self, work: Callable[[Machine], object]) -> int:
        power = PowerSupply()
        machine = self.builder.open(self._copy("clean"), power=power)
        _boot_and(work, machine)
        machine.close()
        return power.operations

    def _copy(self, name: str) -> Path:
        return Path(shutil.copytree(self._start, self._copies / name))


def _boot_and(work: Callable[[Machine], object], machine: Machine) -> None:
    machine.boot()
    work(machine)


def learn(machine: Machine, windows: list[np.ndarray]) -> list[str]:
    return [machine.cores[Core.M4_1].infer(window).label for window in windows]


def kept_windows(machine: Machine) -> int:
    kept = LearnedStates(machine.storage).recall(Core.M4_1)
    return 0 if kept is None else parse_state(kept).windows


def test_cut_while_learning_leaves_a_whole_state(tmp_path: Path) -> None:
    """At most the windows since the last write are lost; the rest of the warm-up follows, and verdicts come."""
    campaign = LearningCampaign(tmp_path, learned=0)
    found = set()
    for machine in campaign.cuts(lambda machine: learn(machine, WINDOWS)):
        kept = kept_windows(machine)
        found.add(kept)
        assert set(learn(machine, WINDOWS[kept:])) == {"learning"}
        assert learn(machine, WINDOWS[:1]) == ["normal"]
    assert found == {0, KEPT_EVERY, 2 * KEPT_EVERY}


@pytest.mark.parametrize("policy", StatePolicy)
def test_cut_while_a_template_is_replaced_loses_nothing(tmp_path: Path, policy: StatePolicy) -> None:
    """Trial, confirmation and copying home: the state stays whole, whichever template the device wakes up with."""
    campaign = LearningCampaign(tmp_path, learned=WARM_UP)
    newer = learning_template(warm_up=WARM_UP, sensitivity=2.0, policy=policy)
    package = campaign.package(newer, version="2.0.0")

    def update(machine: Machine) -> None:
        install_trial(machine, SLOT, package)
        learn(machine, WINDOWS[:3])
        machine.confirm(SLOT)

    verdicts = set()
    for machine in campaign.cuts(update):
        assert kept_windows(machine) == WARM_UP
        learner = machine.cores[Core.M4_1].learner
        assert learner is not None
        is_new = learner.template == newer
        assert learner.detector.windows == (0 if is_new and policy is StatePolicy.RESET else WARM_UP)
        verdicts.add((is_new, *learn(machine, WINDOWS[:1])))
    expected = "learning" if policy is StatePolicy.RESET else "normal"
    assert verdicts == {(False, "normal"), (True, expected)}
