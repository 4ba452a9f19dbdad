"""Secure storage that is full stops neither a boot nor a revert: what nobody confirmed does not stay."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from device_sim.hardware.machine import Machine
from device_sim.hardware.secure_storage import REPORTS
from device_sim.hardware.spare import Spare
from protocol.geometry import Core, Slot
from protocol.image import digest_of
from tests.storage_filler import fill_storage, shrink_storage
from tests.unit.device_hardware.device_builder import BUILT_AT, DeviceBuilder, install_trial

SLOT = Slot.M4_0_MODEL


@pytest.fixture(autouse=True)
def small_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that is full soon."""
    shrink_storage(monkeypatch)


@pytest.fixture
def builder(tmp_path: Path) -> DeviceBuilder:
    return DeviceBuilder(tmp_path)


def _on_trial(builder: DeviceBuilder, *, reserve: str) -> tuple[Machine, str]:
    machine = builder.ready()
    machine.boot()
    package = builder.packages.model(SLOT, version="2.0.0", security=2)
    install_trial(machine, SLOT, package)
    fill_storage(machine.storage, reserve=reserve)
    return machine, digest_of(package)


def _kill_and_boot(machine: Machine, builder: DeviceBuilder) -> Machine:
    machine.close()
    again = builder.open(machine.folder)
    report = again.boot()
    assert report.reverted is not None
    return again


def _revert(machine: Machine, _builder: DeviceBuilder) -> Machine:
    machine.revert(SLOT, "golden vectors failed")
    return machine


def _restart_core(machine: Machine, _builder: DeviceBuilder) -> Machine:
    machine.restart(Core.M4_0)
    return machine


@pytest.mark.parametrize("end", [_kill_and_boot, _revert, _restart_core])
@pytest.mark.parametrize("reserve", ["", REPORTS], ids=["reserve free", "reserve full"])
def test_image_on_trial_is_dropped_with_full_storage(
    reserve: str, end: Callable[[Machine, DeviceBuilder], Machine], builder: DeviceBuilder
) -> None:
    """The old image runs, now and after a further boot; why is kept where there is room."""
    machine, digest = _on_trial(builder, reserve=reserve)
    machine = end(machine, builder)
    for _ in range(2):
        assert machine.spare == Spare()
        assert machine.installed()[SLOT].name == "colour@1.0.0"
        card = machine.cores[Core.M4_0].card
        assert card is not None
        assert card.version == "1.0.0"
        assert machine.reboot().reverted is None
    kept = machine.last_revert
    assert (None if kept is None else kept.digest) == (None if reserve else digest)


def test_voucher_that_full_storage_cannot_take_leaves_the_old_one(builder: DeviceBuilder) -> None:
    """The device boots with the voucher in force and says why the newer one was not taken."""
    machine = builder.ready()
    machine.boot()
    fill_storage(machine.storage)
    builder.claim(machine.folder, sequence=2, expires_at=BUILT_AT + timedelta(days=365))
    report = machine.reboot()
    assert report.is_claimed
    assert "secure storage: expected at most" in report.voucher_refusal
    assert machine.voucher is not None
    assert machine.voucher.sequence == 1
