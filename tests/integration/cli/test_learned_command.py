"""`tinyfleet device learned` against a running service, with devices that learn and talk to it over real HTTPS."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from device_sim.adapters.clock import WallClock
from device_sim.learning.backup import LearnedBackup
from device_sim.learning.learner import Learner
from device_sim.learning.states import LearnedStates
from device_sim.network.https import HttpsTransport
from protocol.geometry import Core
from protocol.learned_state import LearnedStateError, parse_state
from protocol.learning import LearningTemplate
from service.cli.client import RefusedError
from service.cli.errors import BadArgumentError
from tests.integration.cli.live_operator import Operator, live_operator
from tests.learning_template import COMPONENT, learning_template
from tests.unit.device_update.test_learned_backup import DictStorage
from tests.unit.tinyml.synthetic_vibration import synthetic_machine
from tinyml.workers import ModelImage

TEMPLATE = learning_template(warm_up=60)
PUMP = synthetic_machine(8)
CORE = Core.M4_1


class LearningDevice:
    """A claimed device's storage and one of its cores, with its own connection to the service."""

    def __init__(self, device_id: str, transport: HttpsTransport, template: LearningTemplate) -> None:
        self.device_id = device_id
        self.storage = DictStorage()
        self.events: list[str] = []
        self.learner = Learner(
            template, component_id=COMPONENT, core=CORE, states=LearnedStates(self.storage), keeps=True
        )
        self._transport = transport
        self._backup = LearnedBackup(
            self.storage,
            WallClock().now,
            learners=lambda: {CORE: self.learner},
            period=timedelta(hours=6),
            emit=lambda event, **_: self.events.append(event),
        )

    @classmethod
    async def join(cls, operator: Operator, template: LearningTemplate = TEMPLATE) -> "LearningDevice":
        live = operator.service
        device = await live.claimed()
        context = live.tls(device, await live.attest(device))
        transport = HttpsTransport(live.addresses.device_url, context, monotonic=WallClock().monotonic)
        return cls(device.device_id, transport, template)

    def label(self, window: np.ndarray) -> int:
        return int(np.argmax(self.learner.invoke(ModelImage(b"", 0), window, deadline_seconds=1).output))

    async def talk(self) -> None:
        self._backup.ask()  # as a command does that wakes the device
        try:
            await asyncio.to_thread(self._backup.run, self._transport)
        finally:
            self._transport.close()


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    async with live_operator(tmp_path, monkeypatch) as opened:
        yield opened


async def test_replaced_device_judges_at_once_by_what_the_old_one_learned(operator: Operator, tmp_path: Path) -> None:
    """Learn, back up, download, restore by an operator's order, and the new device needs no warm-up."""
    rng = np.random.default_rng(8)
    old, new = await LearningDevice.join(operator), await LearningDevice.join(operator)
    for window in PUMP.windows(rng, 60):
        old.label(window)
    await old.talk()
    shown = await operator.succeed("device", "learned", "show", old.device_id)
    assert [state["windows"] for state in shown["states"]] == [60]
    file = tmp_path / "state.bin"
    core = ("--core", "m4-1")
    await operator.succeed("device", "learned", "download", old.device_id, *core, "--out", str(file))
    assert parse_state(file.read_bytes()) == old.learner.detector.state()
    await operator.succeed("device", "learned", "restore", "--from", old.device_id, "--to", new.device_id, *core)
    await new.talk()
    assert new.events == ["learned-restore", "learned-sent"]
    assert [new.label(window) for window in PUMP.windows(rng, 20)] == [0] * 20
    assert [new.label(window) for window in PUMP.windows(rng, 5, fault="bearing")] == [1] * 5
    shown = await operator.succeed("device", "learned", "show")
    assert [(order["kind"], order["state"]) for order in shown["orders"]] == [("restore", "done")]
    assert len(shown["states"]) == 2
    listed = await operator.service.operator.get("/learned-states", params={"device": new.device_id})
    assert listed.json()["items"][0]["sha256"] == shown["states"][0]["sha256"]


async def test_device_refuses_a_state_from_other_features_and_takes_a_reset(operator: Operator) -> None:
    """The operator reads why; what the device learned itself stays until it is told to forget it."""
    rng = np.random.default_rng(9)
    old = await LearningDevice.join(operator)
    fewer = TEMPLATE.layout.model_copy(update={"bands": 8})
    new = await LearningDevice.join(operator, learning_template(layout=fewer, warm_up=60))
    for window in PUMP.windows(rng, 60):
        old.label(window)
        new.label(window)
    await old.talk()
    core = ("--core", "m4-1")
    await operator.succeed("device", "learned", "restore", "--from", old.device_id, "--to", new.device_id, *core)
    await new.talk()
    shown = await operator.succeed("device", "learned", "show", new.device_id)
    assert shown["orders"][0]["state"] == "refused"
    assert "expected features by layout" in shown["orders"][0]["detail"]
    assert new.learner.detector.windows == 60
    await operator.succeed("device", "learned", "reset", new.device_id, *core, "--reason", "another pump")
    await new.talk()
    assert new.learner.detector.windows == 0
    audited = await operator.succeed("audit", "list")
    assert {"learned.restore", "learned.reset"} <= {entry["action"] for entry in audited}


async def test_commands_refuse_what_cannot_be(operator: Operator, tmp_path: Path) -> None:
    """A core without models, a device without a backup."""
    device = await LearningDevice.join(operator)
    wrong = await operator.failure("device", "learned", "reset", device.device_id, "--core", "a7", "--reason", "test")
    assert isinstance(wrong, BadArgumentError)
    words = ("download", device.device_id, "--core", "m4-0", "--out", str(tmp_path / "none.bin"))
    refused = await operator.failure("device", "learned", *words)
    assert isinstance(refused, RefusedError)
    assert "expected a backup of what m4-0 learned, found none" in str(refused)
    with pytest.raises(LearnedStateError):
        parse_state(b"")
