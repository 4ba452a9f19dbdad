"""The download into the spare: ranges, resumption, and servers that do not keep to them."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from device_sim.errors import SpareStateError
from device_sim.hardware.spare import Spare
from device_sim.network.ports import HttpResponse, NetworkError, UnexpectedResponseError, UnreachableError
from device_sim.update.download import CHUNK_BYTES, WrongRangeError, download, verify_spare
from device_sim.update.errors import TargetRefusedError
from device_sim.update.uptane import Floors, ImageTarget
from protocol.geometry import SECTOR_BYTES, Slot
from protocol.image import digest_of
from protocol.messages import ActionState, Attack
from tests.unit.device_update.update_builder import NOW, Updated, info_of, ready_device, serve_range

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
        (lambda good: HttpResponse(206, {}, good.body), WrongRangeError),
        (lambda good: HttpResponse(206, {"content-range": "bytes 0-9/10"}, good.body), WrongRangeError),
        (lambda good: HttpResponse(206, good.headers, good.body[:-1]), WrongRangeError),
        (lambda good: HttpResponse(200, {}, good.body), WrongRangeError),
        (lambda _good: HttpResponse(416, {}, b""), WrongRangeError),
        (lambda _good: HttpResponse(500, {}, b""), UnexpectedResponseError),
    ],
    ids=["no range", "other range", "short range", "short whole", "not satisfiable", "server error"],
)
def test_answer_that_is_not_the_range_is_refused(
    device: Updated,
    target: ImageTarget,
    change: Callable[[HttpResponse], HttpResponse],
    error: type[NetworkError],
) -> None:
    """Nothing is written of an answer that is not exactly what was asked for."""
    _wrong(change)(device)
    with pytest.raises(error, match="expected"):
        next(download(device.machine, device.wire, target))
    assert device.machine.spare_begin(target.slot, target.sha256, target.length) == 0


def test_changed_bytes_in_the_spare_are_refused_and_dropped(device: Updated, target: ImageTarget) -> None:
    """The whole image is hashed where it lies, not where it came from, and no later action finds it there."""
    finish(device, target)
    altered = ImageTarget(
        target.slot, target.name, "0" * 64, target.length, target.custom, target.release, target.golden
    )
    with pytest.raises(TargetRefusedError, match="expected SHA-256 0000000000000000"):
        verify_spare(device.machine, altered, package_keys=[device.builder.packages.keys.package.public_key])
    assert device.machine.spare == Spare()


def _spoil_once(device: Updated, package: bytes) -> None:
    """Change the first bytes of the first range, on the way."""
    spoiled: list[str] = []

    def hook(path: str, headers: Mapping[str, str]) -> HttpResponse | None:
        if spoiled or not path.endswith(digest_of(package)):
            return None
        spoiled.append(path)
        honest = serve_range(package, headers)
        return HttpResponse(206, honest.headers, bytes(16) + honest.body[16:])

    device.wire.hook = hook


def test_image_that_was_spoiled_on_the_way_is_fetched_anew(device: Updated) -> None:
    """Once is no attack: the update succeeds in the same action."""
    package = device.offer_model()
    _spoil_once(device, package)
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED
    assert device.digests()[SLOT] == digest_of(package)
    assert any("full image anew" in report.detail for report in device.wire.reports)


def test_refused_image_does_not_block_an_honest_one(device: Updated) -> None:
    """Wrong bytes twice are an attack; the next action fetches the image again, and takes it."""
    package = device.offer_model()
    honest, device.catalog.artifacts = (
        device.catalog.artifacts,
        {
            digest: bytes(len(content)) if content == package else content
            for digest, content in device.catalog.artifacts.items()
        },
    )
    device.run()
    assert (device.wire.states[-1], device.wire.reports[-1].attack) == (
        ActionState.FAILED,
        Attack.ARBITRARY_SOFTWARE,
    )
    device.catalog.artifacts, device.catalog.action_id = honest, "33333333-3333-4333-8333-333333333333"
    device.catalog.publish()
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED
    assert device.digests()[SLOT] == digest_of(package)


@pytest.mark.parametrize(
    "page",
    [
        HttpResponse(503, {}, bytes(1 << 20)),
        HttpResponse(206, {"content-range": "bytes 0-9/10"}, bytes(10)),
        HttpResponse(416, {}, b""),
    ],
    ids=["outage page", "other range", "not satisfiable"],
)
def test_answer_of_a_broken_server_is_no_attack(device: Updated, page: HttpResponse) -> None:
    """It is asked again, and the update succeeds."""
    package = device.offer_model()
    pages = [page]
    device.wire.hook = lambda path, _headers: pages.pop() if pages and path.endswith(digest_of(package)) else None
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED
    assert all(report.attack is None for report in device.wire.reports)


def test_wrong_ranges_again_and_again_end_the_action(device: Updated) -> None:
    """A server that never sends what was asked for is not asked for ever."""
    package = device.offer_model()
    wrong = HttpResponse(206, {"content-range": "bytes 0-9/10"}, bytes(10))
    device.wire.hook = lambda path, _headers: wrong if path.endswith(digest_of(package)) else None
    device.run()
    report = device.wire.reports[-1]
    assert (report.state, report.rule) == (ActionState.FAILED, "TargetRefusedError")
    assert "3 times" in report.detail


@pytest.mark.parametrize("error", [ValueError("expected another"), SpareStateError("expected another")])
def test_unforeseen_error_ends_the_action_with_a_report(device: Updated, error: Exception) -> None:
    """The device's other work goes on, and the next action can begin."""

    def break_down(_path: str, _headers: Mapping[str, str]) -> None:
        raise error

    device.offer_model()
    device.wire.hook = break_down
    assert list(device.client.run(device.catalog.action_id)) == []
    device.wire.hook = lambda _path, _headers: None
    device.progress.send(device.wire)
    report = device.wire.reports[-1]
    assert (report.state, report.rule, report.attack) == (ActionState.FAILED, type(error).__name__, None)
    assert device.progress.unfinished_action is None


def test_release_document_that_is_not_sent_is_told_once(device: Updated) -> None:
    """The service hears what an update waits for, and hears it once, whatever it takes."""
    device.offer_model()
    pages = [HttpResponse(503, {}, b'{"detail": "not in the log yet"}')] * 5
    device.wire.hook = lambda path, _headers: pages.pop() if pages and "/artifacts/" in path else None
    device.run()
    assert device.wire.states[-1] is ActionState.CONFIRMED
    assert sum("not in the log yet" in report.detail for report in device.wire.reports) == 1
