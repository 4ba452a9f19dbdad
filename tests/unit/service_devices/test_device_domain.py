"""Devices, roles and groups: which changes are allowed, and that repeating one changes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from protocol.identity import DeviceId, spki_der
from protocol.signing import SoftwareSigner
from service.domain.device import Device, DeviceState, FinalStateError
from service.domain.operator import Role
from service.domain.product import DEFAULT_GROUPS, UpdatePolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
KEY = SoftwareSigner.generate().public_key
CLAIMED = Device(
    device_id=DeviceId("a" * 128),
    group_id="g1",
    identity_key=spki_der(KEY),
    idevid_chain="",
    claimed_at=NOW,
    claimed_by="operator",
)


def certified(device: Device, at: datetime = NOW) -> Device:
    return device.certify("1f", evidence=b"token", key_sha256="00" * 32, not_after=at + timedelta(days=1), at=at)


def test_first_certificate_makes_a_device_active_for_good() -> None:
    """Renewal does not change when it became active."""
    active = certified(CLAIMED)
    assert (CLAIMED.state, active.state) == (DeviceState.CLAIMED, DeviceState.ACTIVE)
    assert certified(active, LATER).activated_at == NOW


@pytest.mark.parametrize("device", [CLAIMED, certified(CLAIMED)])
def test_block_and_unblock_return_to_where_the_device_was(device: Device) -> None:
    """Claimed or active, whatever it was before."""
    blocked = device.block("lost", LATER)
    assert (blocked.state, blocked.blocked_reason) == (DeviceState.BLOCKED, "lost")
    assert blocked.block("again", LATER) is blocked
    assert blocked.unblock().state == device.state
    assert blocked.unblock().blocked_reason == ""
    assert device.unblock() is device


def test_every_change_of_an_operator_raises_the_version() -> None:
    """So that an ETag names one state; a change to what is there already is none."""
    moved = CLAIMED.move("g2")
    assert [moved.version, moved.block("x", NOW).version, moved.move("g2").version] == [2, 3, 2]
    assert certified(CLAIMED).version == CLAIMED.version


def test_identity_key_loads() -> None:
    """The stored key verifies manifests and evidence."""
    assert CLAIMED.identity_public_key == KEY


def test_roles_include_those_below() -> None:
    """viewer < operator < releaser < admin."""
    assert [[role.includes(needed) for needed in Role].count(True) for role in Role] == [1, 2, 3, 4]


def test_development_devices_take_no_updates_over_the_air() -> None:
    """Azure Sphere: cloud application updates are off in the Development group."""
    policies = dict(DEFAULT_GROUPS)
    assert len(policies) == 5
    without = [name for name, policy in policies.items() if policy.update_policy is not UpdatePolicy.UPDATE_ALL]
    assert without == ["Development"]


@pytest.mark.parametrize("gone", [CLAIMED.decommission(LATER), certified(CLAIMED).depart("Other", LATER)])
def test_device_that_is_gone_stays_gone(gone: Device) -> None:
    """Nothing brings a moved or decommissioned device back, and it may not connect."""
    assert gone.state.is_final
    assert not gone.state.may_connect
    changes: list[Callable[[], Device]] = [
        lambda: gone.block("x", LATER),
        gone.unblock,
        lambda: gone.move("g2"),
        lambda: gone.decommission(LATER),
        lambda: gone.depart("Third", LATER),
        gone.clear_suspicion,
    ]
    for change in changes:
        with pytest.raises(FinalStateError, match=f"expected one of the catalog, found it {gone.state}"):
            change()


def test_decommissioned_wins_over_blocked() -> None:
    """A blocked device is decommissioned like any other; its block stays in its history."""
    gone = CLAIMED.block("stolen", NOW).decommission(LATER)
    assert (gone.state, gone.blocked_reason, gone.decommissioned_at) == (DeviceState.DECOMMISSIONED, "stolen", LATER)


def test_unblock_leaves_a_suspicion() -> None:
    """Whether it is a clone is another question, which an operator clears by itself."""
    suspected = CLAIMED.suspect("boot-seed: …", NOW).block("suspected clone", NOW).unblock()
    assert suspected.clone_suspected_at == NOW
    assert suspected.suspect("later", LATER) is suspected
