"""What a device remembers when its metadata has expired or its flash is damaged."""

from datetime import timedelta
from pathlib import Path

import pytest

from pki.metadata import Delegation, role_delegations, sign_targets
from protocol.geometry import Slot
from protocol.messages import ActionState, Attack, Cause
from protocol.signing import SoftwareSigner
from tests.attack.update_refusals import LEGITIMATE_COUNTER, SLOT, assert_refused, updated_device
from tests.unit.device_update.update_builder import NOW, Updated, info_of

NEXT = LEGITIMATE_COUNTER + 1
SIBLING = Slot.M4_1_MODEL


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    """A device after a legitimate update, in which the sibling's requirements were read."""
    return updated_device(tmp_path)


def expire_team_of(device: Updated, slot: Slot) -> None:
    team = SoftwareSigner.generate()
    device.catalog.delegations = role_delegations([Delegation("other", (team.public_key,), 1, (f"images/{slot}/*",))])
    expired = NOW - timedelta(days=1)
    device.catalog.roles["other"] = sign_targets([], team, version=1, expires=expired)


def test_expired_role_of_another_team_holds_nobody_up(device: Updated) -> None:
    """The requirements of what is installed are remembered."""
    expire_team_of(device, SIBLING)
    device.offer_model(version="3.0.0", counter=NEXT)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED


def test_expired_role_of_an_unknown_image_is_no_attack(device: Updated) -> None:
    """Nobody has ever said what the installed image requires: the report names the role, and no freeze."""
    device.machine.storage.update({"uptane/builds": None})
    expire_team_of(device, SIBLING)
    device.offer_model(version="3.0.0", counter=NEXT)
    assert_refused(
        device,
        Cause.REQUIREMENT,
        "the role which lists it has expired: /device/v1/uptane/image/: ExpiredMetadataError: New other",
        None,
    )


def test_damaged_image_lets_no_older_one_in(device: Updated) -> None:
    """The last confirmed build decides, though its flash can say nothing any more."""
    device.machine.tamper(SLOT)
    device.restart()
    assert SLOT not in device.machine.installed()
    device.offer_model(version="1.5.0", counter=NEXT)
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.attack) == (ActionState.FAILED, Attack.ROLLBACK)
    assert "expected nothing older than colour@2.0.0" in report.detail


def test_damaged_image_is_replaced_by_a_newer_one(device: Updated) -> None:
    """The way on stays open."""
    device.machine.tamper(SLOT)
    device.restart()
    device.offer_model(version="3.0.0", counter=NEXT)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED


def test_offered_build_that_was_reverted_is_not_what_the_slot_holds(device: Updated) -> None:
    """A newer build that failed its trial does not bar the way of one between."""
    package = device.model(version="4.0.0")
    golden = device.catalog.add_golden(info_of(package).component_id, expected=9.0)
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, package, golden=golden)}, counter=NEXT)
    device.run()
    assert ActionState.REVERTED in device.wire.states
    device.machine.tamper(SLOT)
    device.restart()
    device.catalog.action_id = "44444444-4444-4444-8444-444444444444"
    device.offer_model(version="3.0.0", counter=NEXT + 1)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED
