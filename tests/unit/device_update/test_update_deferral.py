"""A device whose application puts its update off: what it keeps, says and does, through restarts and refusals."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from device_sim.network.ports import HttpResponse, UnreachableError
from device_sim.update.client import ANSWER_PAUSE_SECONDS, UpdateClient
from device_sim.update.deferring import PutsOff
from device_sim.update.installer import NOW
from device_sim.update.progress import Deferral, ReportRefusedError
from protocol.geometry import Slot
from protocol.image import digest_of
from protocol.messages import ActionState
from tests.unit.device_update.update_builder import ACTION, Updated, ready_device

USER = PutsOff(timedelta(hours=2), times=1)


def begun(device: Updated) -> Iterator[float]:
    """Begin the action with a user who puts it off, up to where the service is asked."""
    return asked_again(replace(device.client, application=USER))


def asked_again(client: UpdateClient) -> Iterator[float]:
    steps = client.run(ACTION)
    while client.progress.deferral is not Deferral.ASKED:
        next(steps)
    return steps


def refuses(device: Updated) -> None:
    """Have the service refuse every report."""

    def answer(path: str, _headers: object) -> HttpResponse | None:
        refusal = json.dumps({"detail": "expected at most 3"}).encode()
        return HttpResponse(409, {}, refusal) if path.endswith("/reports") else None

    device.wire.hook = answer


def artifacts(device: Updated) -> list[str]:
    return [path for path in device.wire.requests if "/artifacts/" in path]


def test_update_waits_where_the_service_takes_it(tmp_path: Path) -> None:
    """Nothing is fetched, nothing changes; offered again, it is installed, as its user had only one wish."""
    device = ready_device(tmp_path)
    package = device.offer_model()
    steps = begun(device)
    device.progress.send(device.wire)
    assert list(steps) == []
    (report,) = device.wire.reports
    assert (report.state, report.defer_seconds, report.sequence) == (ActionState.SCHEDULED, 7200.0, 0)
    assert (device.progress.unfinished_action, device.progress.deferrals) == (None, 1)
    assert not any(digest_of(package) in path for path in artifacts(device))
    for _ in replace(device.client, application=USER).run(ACTION):
        pass
    assert device.digests()[Slot.M4_0_MODEL] == digest_of(package)
    device.progress.send(device.wire)
    assert device.wire.reports[-1].state is ActionState.CONFIRMED
    assert device.wire.reports[1].sequence == 1
    device.machine.close()


def test_refused_device_installs(tmp_path: Path) -> None:
    """The service's word is final for this action; it is not asked again."""
    device = ready_device(tmp_path)
    package = device.offer_model()
    steps = begun(device)
    refuses(device)
    with pytest.raises(ReportRefusedError, match="expected at most 3"):
        device.progress.send(device.wire)
    for _ in steps:
        pass
    assert device.digests()[Slot.M4_0_MODEL] == digest_of(package)
    device.machine.close()


def test_restart_before_the_answer_asks_once_and_waits_for_it(tmp_path: Path) -> None:
    """The wish is kept before it is sent; the device neither installs meanwhile nor asks its user anew."""
    device = ready_device(tmp_path)
    device.offer_model()
    begun(device)
    device.restart()
    assert (device.progress.deferral, device.progress.unfinished_action) == (Deferral.ASKED, ACTION)
    steps = asked_again(device.client)
    assert [next(steps), next(steps)] == [NOW, ANSWER_PAUSE_SECONDS]
    device.progress.send(device.wire)
    assert list(steps) == []
    assert [report.defer_seconds for report in device.wire.reports] == [7200.0]
    device.machine.close()


def test_restart_after_the_answer_leaves_the_update_alone(tmp_path: Path) -> None:
    """It comes again from the service, not from what the device remembers."""
    device = ready_device(tmp_path)
    device.offer_model()
    begun(device)
    device.progress.send(device.wire)
    device.restart()
    assert device.progress.unfinished_action is None
    assert device.progress.begin(ACTION)
    assert (device.progress.deferral, device.progress.deferrals) == (Deferral.NONE, 1)
    device.machine.close()


def test_answer_that_does_not_come_is_waited_for(tmp_path: Path) -> None:
    """A network that is away puts nothing off and installs nothing."""
    device = ready_device(tmp_path)
    device.offer_model()
    steps = begun(device)
    device.wire.hook = lambda _path, _headers: UnreachableError("away")
    for _ in range(5):
        with pytest.raises(UnreachableError, match="away"):
            device.progress.send(device.wire)
        assert next(steps) == ANSWER_PAUSE_SECONDS
    assert (device.progress.deferral, device.progress.has_mail) == (Deferral.ASKED, True)
    device.machine.close()


def test_next_action_is_asked_about_by_itself(tmp_path: Path) -> None:
    """What was said of one update holds for no other."""
    device = ready_device(tmp_path)
    device.progress.begin(ACTION)
    device.progress.put_off(timedelta(hours=1))
    device.progress.put_off(timedelta(hours=1))
    device.progress.begin("33333333-3333-4333-8333-333333333333")
    device.progress.send(device.wire)
    assert len(device.wire.reports) == 1
    assert (device.progress.deferral, device.progress.deferrals) == (Deferral.NONE, 0)
    device.machine.close()
