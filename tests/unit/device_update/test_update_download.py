"""The download into the spare: ranges, resumption, and servers that do not keep to them."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from device_sim.network.ports import HttpResponse, UnexpectedResponseError, UnreachableError
from device_sim.update.download import CHUNK_BYTES, download, verify_spare
from device_sim.update.errors import TargetRefusedError, UpdateError
from device_sim.update.uptane import Floors, ImageTarget
from protocol.geometry import SECTOR_BYTES, Slot
from tests.unit.device_update.update_builder import NOW, Updated, info_of, ready_device

SLOT = Slot.M4_0_MODEL
CHUNKS = 4


@pytest.fixture
def device(tmp_path: Path) -> Updated:
    return ready_device(tmp_path)


@pytest.fixture
def target(device: Updated) -> ImageTarget:
    """A verified image of some chunks and a rest."""
    package = device.builder.packages.model(SLOT, version="2.0.0", padding=(CHUNKS - 1) * CHUNK_BYTES + 123)
    golden = device.catalog.add_golden(info_of(package).component_id)
    device.catalog.roll_out({SLOT: device.catalog.add_image(SLOT, package, golden=golden)})
    floors = Floors(security=lambda _slot: 0, release=lambda _slot: 0)
    (target,) = device.client.uptane.check(device.wire, NOW, floors=floors, installed={}).targets
    return target


def in_spare(device: Updated, target: ImageTarget) -> str:
    return hashlib.sha256(device.machine.spare_read(0, target.length)).hexdigest()


def finish(device: Updated, target: ImageTarget) -> int:
    return sum(1 for _ in download(device.machine, device.wire, target))


def test_image_arrives_in_ranges(device: Updated, target: ImageTarget) -> None:
    """Each step fetches one range; the last one is shorter."""
    assert finish(device, target) == CHUNKS
    assert in_spare(device, target) == target.sha256


@pytest.mark.parametrize("chunks", range(CHUNKS))
def test_restart_after_any_chunk_resumes_there(device: Updated, target: ImageTarget, chunks: int) -> None:
    """A device that was killed after some chunks fetches only the rest."""
    steps = download(device.machine, device.wire, target)
    for _ in range(chunks):
        next(steps)
    device.restart()
    assert finish(device, target) == CHUNKS - chunks
    assert in_spare(device, target) == target.sha256


def test_lost_connection_resumes_where_it_broke(device: Updated, target: ImageTarget) -> None:
    """After a broken connection the next call goes on where the spare ends."""
    steps = download(device.machine, device.wire, target)
    next(steps)
    device.wire.hook = lambda _path, _headers: UnreachableError("connection reset")
    with pytest.raises(UnreachableError, match="connection reset"):
        next(steps)
    seen: list[str] = []
    device.wire.hook = lambda _path, headers: seen.append(headers["Range"])
    finish(device, target)
    start = int(seen[0].removeprefix("bytes=").partition("-")[0])
    assert CHUNK_BYTES - SECTOR_BYTES <= start <= CHUNK_BYTES  # the last sector may be written again


def test_server_without_ranges_sends_the_whole_image(device: Updated, target: ImageTarget) -> None:
    """A 200 brings everything at once, also to a download that has begun."""
    next(download(device.machine, device.wire, target))
    device.wire.hook = lambda path, _headers: device.wire.serve_whole(path)
    assert finish(device, target) == 1
    assert in_spare(device, target) == target.sha256


def _wrong(change: Callable[[HttpResponse], HttpResponse]) -> Callable[[Updated], None]:
    def spoil(device: Updated) -> None:
        serve = device.wire._serve

        def hook(path: str, headers: Mapping[str, str]) -> HttpResponse:
            return change(serve(path.removeprefix("/device/v1"), headers, None))

        device.wire.hook = hook

    return spoil


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda good: HttpResponse(206, {}, good.body), TargetRefusedError),
        (lambda good: HttpResponse(206, {"content-range": "bytes 0-9/10"}, good.body), TargetRefusedError),
        (lambda good: HttpResponse(206, good.headers, good.body[:-1]), TargetRefusedError),
        (lambda good: HttpResponse(200, {}, good.body), TargetRefusedError),
        (lambda _good: HttpResponse(416, {}, b""), TargetRefusedError),
        (lambda _good: HttpResponse(500, {}, b""), UnexpectedResponseError),
    ],
    ids=["no range", "other range", "short range", "short whole", "not satisfiable", "server error"],
)
def test_answer_that_is_not_the_range_is_refused(
    device: Updated,
    target: ImageTarget,
    change: Callable[[HttpResponse], HttpResponse],
    error: type[UpdateError],
) -> None:
    """Nothing is written of an answer that is not exactly what was asked for."""
    _wrong(change)(device)
    with pytest.raises(error, match="expected"):
        next(download(device.machine, device.wire, target))
    assert device.machine.spare_begin(target.slot, target.sha256, target.length) == 0


def test_changed_bytes_in_the_spare_are_refused(device: Updated, target: ImageTarget) -> None:
    """The whole image is hashed where it lies, not where it came from."""
    finish(device, target)
    altered = ImageTarget(
        target.slot, target.name, "0" * 64, target.length, target.custom, target.release, target.golden
    )
    with pytest.raises(TargetRefusedError, match="expected SHA-256 0000000000000000"):
        verify_spare(device.machine, altered, package_keys=[device.builder.packages.keys.package.public_key])
