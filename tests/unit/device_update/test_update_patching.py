"""Updates by patch: fewer bytes for the same image; whatever is wrong with a patch, the full image comes."""

import hashlib
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from device_sim.network.ports import (
    HttpResponse,
    NetworkError,
    SlowRetrievalError,
    UnexpectedResponseError,
    UnreachableError,
)
from device_sim.update.patching import MAX_FAILURES, REFUSED
from protocol.delta import HEADER_BYTES, PATCH_PIECE_BYTES, Record, write_patch
from protocol.messages import ActionState
from tests.unit.device_update.patch_builder import SLOT, install_old, large_model, offer_new, offer_patch
from tests.unit.device_update.update_builder import Updated, ready_device


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    return ready_device(tmp_path)


class Meter:
    """Counts the bytes of artifacts that cross the wire, by hash."""

    def __init__(self, device: Updated) -> None:
        self.bytes: dict[str, int] = {}
        self.largest = 0
        serve = device.wire._serve

        def hook(path: str, headers: Mapping[str, str]) -> HttpResponse | None:
            if "/artifacts/" not in path or "Range" not in headers:
                return None
            answer = serve(path.removeprefix("/device/v1"), headers, None)
            sha256 = path.rpartition("/")[2]
            self.bytes[sha256] = self.bytes.get(sha256, 0) + len(answer.body)
            self.largest = max(self.largest, len(answer.body))
            return answer

        device.wire.hook = hook

    def of(self, content: bytes) -> int:
        return self.bytes.get(hashlib.sha256(content).hexdigest(), 0)


def words(device: Updated) -> str:
    return "; ".join(report.detail for report in device.wire.reports)


def confirmed(device: Updated, package: bytes) -> bool:
    digest = hashlib.sha256(package).hexdigest()
    return device.digests()[SLOT] == digest and device.wire.states[-1] is ActionState.CONFIRMED


def test_patch_brings_the_image_in_fewer_bytes(device: Updated) -> None:
    """Nothing of the full image crosses the wire, and no answer is larger than the decoder's buffer."""
    old, new = install_old(device), offer_new(device)
    patch = offer_patch(device, old, new)
    meter = Meter(device)
    device.run()
    assert confirmed(device, new)
    assert meter.of(new) == 0
    assert meter.of(patch) == len(patch) < len(new) // 20
    assert meter.largest <= PATCH_PIECE_BYTES
    assert f"{len(patch)} bytes received of {len(new)}" in words(device)


def test_update_without_a_patch_takes_the_full_image(device: Updated) -> None:
    """A catalog without the role, as before patches."""
    install_old(device)
    new = offer_new(device)
    meter = Meter(device)
    device.run()
    assert confirmed(device, new)
    assert meter.of(new) == len(new)


def test_patch_between_other_images_is_not_looked_at(device: Updated) -> None:
    """What the slot holds decides the target's name."""
    install_old(device)
    new = offer_new(device)
    offer_patch(device, large_model(device, "0.9.0"), new)
    meter = Meter(device)
    device.run()
    assert confirmed(device, new)
    assert meter.of(new) == len(new)


@pytest.mark.parametrize("restart", [False, True])
def test_interrupted_patch_goes_on_where_the_spare_ends(device: Updated, *, restart: bool) -> None:
    """After a lost connection or a restart only the group that was being applied comes again."""
    old, new = install_old(device), offer_new(device)
    patch = offer_patch(device, old, new, patch=_long_patch(old, new))
    meter = Meter(device)
    counting = device.wire.hook
    left = [3]

    def lose(path: str, headers: Mapping[str, str]) -> HttpResponse | NetworkError | None:
        if "/artifacts/" in path and "Range" in headers:
            left[0] -= 1
            if left[0] == 0:
                return UnreachableError("connection reset")
        return counting(path, headers)

    device.wire.hook = lose
    steps = device.client.run(device.catalog.action_id)
    for _ in steps:
        if left[0] == 0 and restart:
            device.restart()
            break
    device.run()
    assert confirmed(device, new)
    assert meter.of(new) == 0
    assert len(patch) <= meter.of(patch) <= len(patch) + 8 * PATCH_PIECE_BYTES


def _long_patch(old: bytes, new: bytes) -> bytes:
    """A patch that compresses badly, of many pieces."""
    noise = [Record(0, 0, len(new))]
    return write_patch(old, new, candidates=[noise], group_bytes=4096)


def _flip(patch: bytes, at: int) -> bytes:
    return patch[:at] + bytes([patch[at] ^ 0x10]) + patch[at + 1 :]


Spoil = Callable[[bytes, bytes, bytes], bytes]
SPOILED: dict[str, Spoil] = {
    "empty": lambda _old, _new, _patch: b"",
    "random": lambda _old, _new, _patch: hashlib.shake_128(b"random").digest(500),
    "truncated": lambda _old, _new, patch: patch[:-40],
    "a bit": lambda _old, _new, patch: _flip(patch, len(patch) // 2),
    "from another image": lambda old, new, _patch: write_patch(old[:-1] + b"\0", new),
    "to another image": lambda old, new, _patch: write_patch(old, new[:-1] + b"\0"),
    "relabelled": lambda old, new, _patch: _relabel(write_patch(old, new[:-1] + b"\0"), new),
    "longer image": lambda old, new, _patch: write_patch(old, new + b"more"),
    "old image longer than it is": lambda old, _new, patch: patch[:68] + struct.pack("<I", len(old) + 1) + patch[72:],
}


def _relabel(patch: bytes, new: bytes) -> bytes:
    return patch[:36] + hashlib.sha256(new).digest() + patch[68:]


@pytest.mark.parametrize("spoiled", SPOILED)
def test_wrong_patch_is_refused_and_the_full_image_comes(device: Updated, spoiled: str) -> None:
    """Signed by the role, and still wrong: nothing of it stays, the device says so and is updated."""
    old, new = install_old(device), offer_new(device)
    offer_patch(device, old, new, patch=SPOILED[spoiled](old, new, write_patch(old, new)))
    device.run()
    if spoiled == "old image longer than it is":  # reads no byte that is not there, and so is right
        assert confirmed(device, new)
        return
    assert confirmed(device, new)
    assert "full image, patch refused" in words(device) or "full image, no patch" in words(device)


def test_patch_that_was_refused_is_not_tried_again(device: Updated) -> None:
    """A restart after the refusal fetches the full image only."""
    old, new = install_old(device), offer_new(device)
    patch = offer_patch(device, old, new, patch=_flip(write_patch(old, new), HEADER_BYTES + 30))
    for _ in device.client.run(device.catalog.action_id):
        if device.machine.storage.get(REFUSED):
            break
    device.restart()
    meter = Meter(device)
    device.run()
    assert confirmed(device, new)
    assert meter.of(patch) == 0
    assert "one was refused before" in words(device)


@pytest.mark.parametrize(
    "break_role",
    [
        lambda device: device.catalog.files.pop("image/deltas.json"),
        lambda device: device.catalog.files.update({"image/deltas.json": b"{}"}),
        lambda device: device.catalog.files.update({"image/deltas.json": device.catalog.files["image/targets.json"]}),
    ],
    ids=["missing", "empty", "another role"],
)
def test_role_that_is_refused_does_not_hold_the_update_up(
    device: Updated, break_role: Callable[[Updated], object]
) -> None:
    """The full image is listed by offline keys."""
    old, new = install_old(device), offer_new(device)
    offer_patch(device, old, new)
    break_role(device)
    device.run()
    assert confirmed(device, new)
    assert "full image, no patch" in words(device)


def test_role_that_has_expired_does_not_hold_the_update_up(device: Updated) -> None:
    """A service that no longer signs patches."""
    old, new = install_old(device), offer_new(device)
    offer_patch(device, old, new, days=-1)
    device.run()
    assert confirmed(device, new)
    assert "expired" in words(device)


@pytest.mark.parametrize("status", [404, 416, 500])
def test_patch_that_is_not_sent_does_not_hold_the_update_up(device: Updated, status: int) -> None:
    """Listed, but not there."""
    old, new = install_old(device), offer_new(device)
    patch = offer_patch(device, old, new)
    name = hashlib.sha256(patch).hexdigest()
    device.wire.hook = lambda path, _headers: HttpResponse(status, {}, b"") if path.endswith(name) else None
    device.run()
    assert confirmed(device, new)


def test_withdrawn_patch_leaves_no_wrong_byte_behind(device: Updated) -> None:
    """A wrong patch was being applied, then it is listed no more: what it made is found out and fetched anew."""
    old, new = install_old(device), offer_new(device)
    offer_patch(device, old, new, patch=_relabel(write_patch(old, bytes(len(new))), new))
    steps = device.client.run(device.catalog.action_id)
    while device.machine.spare.length != len(new) or not any(device.machine.storage.get("update/patched") or b""):
        next(steps)
    next(steps)
    device.restart()
    offer_patch(device, new, old)
    device.run()
    assert confirmed(device, new)
    assert "no longer offered" in words(device)


def test_server_without_ranges_serves_patches_too(device: Updated) -> None:
    """A 200 brings the whole patch each time; the buffer keeps what it asked for."""
    old, new = install_old(device), offer_new(device)
    offer_patch(device, old, new)
    device.wire.hook = lambda path, _headers: device.wire.serve_whole(path) if "/artifacts/" in path else None
    device.run()
    assert confirmed(device, new)


@pytest.mark.parametrize("error", [UnreachableError, SlowRetrievalError, UnexpectedResponseError])
def test_patch_that_never_arrives_is_given_up(device: Updated, error: type[NetworkError]) -> None:
    """Broken off or slow: tried twice and told twice, then the full image comes; it is no attack."""
    old, new = install_old(device), offer_new(device)
    name = hashlib.sha256(offer_patch(device, old, new)).hexdigest()
    device.wire.hook = lambda path, _headers: error("expected more") if path.endswith(name) else None
    device.run()
    assert confirmed(device, new)
    assert sum(path.endswith(name) for path in device.wire.requests) == MAX_FAILURES
    told = [report.detail for report in device.wire.reports if report.state is ActionState.DOWNLOADING]
    assert len(told) == len(set(told)) == 2
    assert "patch given up: expected more" in told[1]
    assert all(report.attack is None for report in device.wire.reports)


def test_patch_is_not_tried_over_bytes_of_the_full_image(device: Updated) -> None:
    """A service that lists one wrong patch after the other cannot make the device begin again."""
    old, new = install_old(device), offer_new(device)
    name = hashlib.sha256(new).hexdigest()
    steps = device.client.run(device.catalog.action_id)
    while not any(path.endswith(name) for path in device.wire.requests):
        next(steps)
    device.restart()
    held = device.machine.spare
    patch = offer_patch(device, old, new, patch=_flip(write_patch(old, new), HEADER_BYTES + 30))
    meter = Meter(device)
    device.run()
    assert held.digest == name
    assert confirmed(device, new)
    assert meter.of(patch) == 0
    assert meter.of(new) < len(new)
    assert "bytes of the full image are there" in words(device)


def test_another_patch_between_the_same_images_is_not_tried_after_a_refusal(device: Updated) -> None:
    """What is remembered is from what to what, not which bytes."""
    old, new = install_old(device), offer_new(device)
    offer_patch(device, old, new, patch=_flip(write_patch(old, new), HEADER_BYTES + 30))
    for _ in device.client.run(device.catalog.action_id):
        if device.machine.storage.get(REFUSED):
            break
    device.restart()
    other = offer_patch(device, old, new)
    meter = Meter(device)
    device.run()
    assert confirmed(device, new)
    assert meter.of(other) == 0
