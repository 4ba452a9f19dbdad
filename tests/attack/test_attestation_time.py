"""Attacks on a device's idea of time: only the Director's answer to the device's own nonce moves its clock."""

import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from device_sim.errors import ClockLeapError, ClockRollbackError, DeviceFolderError, DeviceSimError, PowerCutError
from device_sim.hardware.clock import LAST_TIME
from device_sim.hardware.machine import Machine
from device_sim.hardware.ownership import TIME_FLOOR
from device_sim.hardware.power import PowerSupply
from device_sim.network.attestation import Attester, SignedTimeError
from device_sim.network.poll import poll
from device_sim.network.ports import HttpResponse, UnexpectedResponseError
from device_sim.update.uptane import UptaneClient
from pki.signed_time import sign_time
from protocol.messages import NonceReply, NonceRequest
from protocol.signing import SoftwareSigner
from tests.integration.device_update.attesting_wire import AttestingWire, Authorities, attestable_device
from tests.unit.device_update.update_builder import NOW, Updated

END_OF_TIME = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
HTTP_DATE = {"date": "Fri, 31 Dec 9999 23:59:59 GMT", "expires": "Fri, 31 Dec 9999 23:59:59 GMT", "age": "0"}


class Clocked:
    """A device, the endpoint it attests to, and its clock; a restart forgets everything but the folder."""

    def __init__(self, device: Updated, wire: AttestingWire) -> None:
        self.device = device
        self.wire = wire
        self.machine = device.machine

    @property
    def now(self) -> datetime:
        return self.machine.clock.now()

    def attest(self) -> None:
        assert self.machine.voucher is not None
        assert isinstance(self.device.client.uptane, UptaneClient)
        keys = self.device.client.uptane.timestamp_keys()
        Attester(self.machine, self.machine.voucher, self.wire, keys).attest()

    def restart(self, *, power: PowerSupply | None = None) -> None:
        self.machine.close()
        self.machine = self.device.builder.open(self.device.folder, power=power)
        self.machine.boot()

    def refuses(self, error: type[DeviceSimError], match: str) -> None:
        """The attestation fails, and neither the clock nor what survives a restart has moved."""
        before, floor = self.now, self.machine.clock.floor
        with pytest.raises(error, match=match):
            self.attest()
        assert (self.now, self.machine.clock.floor) == (before, floor)
        self.restart()
        assert self.machine.clock.floor == floor


@pytest.fixture
def clocked(tmp_path: Path) -> Clocked:
    """A device that has attested honestly once."""
    clocked = Clocked(*attestable_device(tmp_path, Authorities()))
    clocked.attest()
    return clocked


def answer(clocked: Clocked, reply: Callable[[NonceRequest], NonceReply]) -> None:
    """Have somebody else answer the device's question for a nonce."""
    clocked.wire.nonce_reply = reply  # type: ignore[method-assign,assignment]


def test_clock_of_the_past_is_set_by_the_signed_answer(clocked: Clocked) -> None:
    """Without a battery a device starts at its floor; the first attestation tells it the time."""
    clocked.restart()
    assert clocked.now == NOW
    clocked.wire.now = NOW + timedelta(days=400)
    clocked.attest()
    assert clocked.now == clocked.wire.now


def test_clock_that_ran_ahead_is_set_back_by_the_signed_answer(clocked: Clocked) -> None:
    """A fast oscillator raises no floor: the device's own idea of time binds nobody."""
    clocked.device.builder.clock.seconds += timedelta(days=20 * 365).total_seconds()
    assert clocked.now > NOW + timedelta(days=7000)
    clocked.wire.now = NOW + timedelta(hours=1)
    clocked.attest()
    assert clocked.now == clocked.wire.now


@pytest.mark.parametrize("claimed", [END_OF_TIME, LAST_TIME + timedelta(seconds=1)])
def test_time_beyond_all_reason_is_refused_even_from_the_director(clocked: Clocked, claimed: datetime) -> None:
    """One faulty answer would raise the floor for ever; the device then takes the next, sane one."""
    answer(
        clocked,
        lambda request: NonceReply(
            nonce=bytes(32),
            expires_at=NOW,
            signed_time=sign_time(request.device_nonce, clocked.wire.time_signer, now=claimed),
        ),
    )
    clocked.refuses(ClockLeapError, "signed time: expected one before 2100")
    del clocked.wire.nonce_reply
    clocked.wire.now = NOW + timedelta(hours=1)
    clocked.attest()
    assert clocked.now == clocked.wire.now


@pytest.mark.parametrize("step", [timedelta(days=3650), timedelta(minutes=1), -timedelta(days=3650)])
def test_time_by_anybody_but_the_director_is_refused(clocked: Clocked, step: timedelta) -> None:
    """Forward would expire what protects the device, back would revive what has expired."""
    thief = SoftwareSigner.generate()
    answer(
        clocked,
        lambda request: NonceReply(
            nonce=bytes(32), expires_at=NOW, signed_time=sign_time(request.device_nonce, thief, now=NOW + step)
        ),
    )
    clocked.refuses(SignedTimeError, "trusted keys")


def test_answer_to_an_earlier_nonce_is_refused(clocked: Clocked) -> None:
    """A recorded answer of the Director, replayed to the same device later."""
    recorded: list[NonceReply] = []
    honest = clocked.wire.nonce_reply

    def record(request: NonceRequest) -> NonceReply:
        recorded.append(honest(request))
        return recorded[-1]

    answer(clocked, record)
    clocked.wire.now = NOW + timedelta(hours=1)
    clocked.attest()
    answer(clocked, lambda _request: recorded[0])
    clocked.refuses(SignedTimeError, "expected this device's nonce")


def test_older_answer_to_the_right_nonce_is_refused_after_a_restart(clocked: Clocked) -> None:
    """The floor outlives the power: a Director restored from a backup of last week tells nobody the time."""
    clocked.wire.now = NOW + timedelta(days=7)
    clocked.attest()
    clocked.restart()
    clocked.wire.now = NOW
    clocked.refuses(ClockRollbackError, "signed time: expected")


@pytest.mark.parametrize("kept", [b"yesterday", b"\xff", b"2026-01-01T00:00:00"])
def test_damaged_floor_stops_the_device(clocked: Clocked, kept: bytes) -> None:
    """A device that cannot tell how late it is at least does not take any time for an answer."""
    clocked.machine.storage.put(TIME_FLOOR, kept)
    clocked.machine.close()
    with pytest.raises(DeviceFolderError, match="expected a time floor"):
        clocked.device.builder.open(clocked.device.folder)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_power_cut_in_any_write_of_the_floor_never_lowers_it(clocked: Clocked, share: float, tmp_path: Path) -> None:
    """Cut at every operation of a boot and an attestation: afterwards the floor is the old or the new one."""
    old, new = NOW, NOW + timedelta(days=1)
    clocked.wire.now = new
    clocked.machine.close()
    kept = tmp_path / "kept"
    shutil.copytree(clocked.device.folder, kept)
    floors = set()
    for operation in range(100):
        shutil.rmtree(clocked.device.folder)
        shutil.copytree(kept, clocked.device.folder)
        power = PowerSupply(fails_at=operation, share=share)
        try:
            clocked.machine = clocked.device.builder.open(clocked.device.folder, power=power)
            clocked.machine.boot()
            clocked.attest()
        except PowerCutError:
            clocked.restart()
            floors.add(clocked.machine.clock.floor)
        else:
            break
        finally:
            clocked.machine.close()
    assert floors <= {old, new}
    assert clocked.machine.clock.floor == new
    assert old in floors or operation == 0


@pytest.mark.parametrize("status", [200, 404, 500])
def test_date_of_an_http_answer_moves_no_clock(clocked: Clocked, status: int) -> None:
    """Date, Expires and Age of every answer lie, on attestation and on polls; the device reads none of them."""

    def lie(path: str, _headers: Mapping[str, str]) -> HttpResponse | None:
        return HttpResponse(status, HTTP_DATE, b"") if status != 200 or path.endswith("/poll") else None

    before = clocked.now
    clocked.wire.hook = lie
    with pytest.raises(UnexpectedResponseError):
        poll(clocked.wire)
    if status != 200:
        clocked.refuses(UnexpectedResponseError, f"found {status}")
    assert clocked.now == before


def test_unsigned_time_beside_the_signed_one_moves_no_clock(clocked: Clocked) -> None:
    """When a nonce ends is the service's affair: the device takes no time from it."""
    honest = clocked.wire.nonce_reply
    answer(clocked, lambda request: honest(request).model_copy(update={"expires_at": END_OF_TIME}))
    clocked.attest()
    assert clocked.now == clocked.wire.now


def test_device_that_was_never_told_the_time_takes_the_first_signed_answer(tmp_path: Path) -> None:
    """From the floor that its voucher gives it on; what happened before is not asked."""
    device, wire = attestable_device(tmp_path, Authorities())
    device.machine.close()
    (device.folder / "state.json").unlink()
    machine: Machine = device.builder.open(device.folder)
    machine.boot()
    assert not machine.clock.is_synchronised
    assert machine.clock.now() <= NOW
    wire.now = NOW + timedelta(days=1)
    clocked = Clocked(device, wire)
    clocked.machine = machine
    clocked.attest()
    assert machine.clock.now() == wire.now
