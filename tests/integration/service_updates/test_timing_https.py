"""What operators and devices see of windows, budgets and deferral over real HTTPS."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.messages import ActionReport, ActionState
from tests.integration.service_updates.test_update_https import Connected, next_offer, publish
from tests.live_service import LiveService, live_service
from tests.service_folder import make_folders


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path), tick_seconds=0.2) as service:
        yield service


async def connected_device(live: LiveService) -> Connected:
    device = await live.claimed()
    return device, live.https(device, await live.attest(device))


async def begun(live: LiveService, **plan: object) -> dict[str, Any]:
    """Start a rollout of a new release by a plan of one stage."""
    await publish(live, "timed")
    body = {"release": "timed", "group": "Production", "product": "Camera", "start": True}
    answer = await live.operator.post("/rollouts", json={**body, "plan": {"stages": [{"percent": 100}], **plan}})
    assert answer.status_code == httpx.codes.CREATED, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def explained(live: LiveService, rollout: dict[str, Any]) -> list[dict[str, Any]]:
    """Ask who waits until somebody does; the test's own time limit ends it."""
    while True:
        answer = await live.operator.get(f"/rollouts/{rollout['id']}/explanation")
        assert answer.status_code == httpx.codes.OK, answer.text
        if waiting := answer.json()["waiting"]:
            return list(waiting)


async def test_operator_sees_what_devices_wait_for(live: LiveService) -> None:
    """In the explanation, the stages, the actions, the device and the metrics; the device is told nothing."""
    device, https = await connected_device(live)
    hour = datetime.now(UTC).hour  # noqa: TID251 - the running service has the wall clock
    window = {"from": f"{(hour + 10) % 24:02}:00", "to": f"{(hour + 12) % 24:02}:00"}
    rollout = await begun(live, maintenance=[window])
    (waiting,) = await explained(live, rollout)
    assert (waiting["hold"], waiting["devices"]) == ("window", 1)
    assert "its maintenance window opens" in waiting["first"][0]["detail"]
    shown = (await live.operator.get(f"/rollouts/{rollout['id']}")).json()
    assert (shown["stages"][0]["held"], shown["plan"]["maintenance"]) == (1, [{"days": [], **window}])
    (action,) = (await live.operator.get(f"/rollouts/{rollout['id']}/actions")).json()["items"]
    assert (action["hold"], action["deferrals"]) == ("window", 0)
    assert datetime.fromisoformat(action["not_before"]) > datetime.now(UTC) + timedelta(hours=1)  # noqa: TID251 - as above
    seen = (await live.operator.get(f"/devices/{device.device_id}")).json()["action"]
    assert "its maintenance window opens" in seen["waits"]
    why = (await live.operator.get(f"/devices/{device.device_id}/explain")).json()
    assert any("release timed waits: its maintenance window opens" in reason for reason in why["reasons"])
    assert "tinyfleet_actions_held 1.0" in (await live.operator.get(f"{live.addresses.operator_url}/metrics")).text
    assert (await https.get("/poll")).json()["action_id"] is None
    await https.aclose()


async def test_device_puts_its_update_off_as_far_as_the_plan_lets_it(live: LiveService) -> None:
    """The first time is taken; while it waits nothing is offered; a second one is refused with what was expected."""
    device, https = await connected_device(live)
    rollout = await begun(live, deferral={"most": 1, "longest": "1s"})
    taken = await put_off((device, https), sequence=0)
    assert taken.status_code == httpx.codes.NO_CONTENT
    assert (await action_of(live, rollout))["state"] == "scheduled"
    while (await action_of(live, rollout))["hold"] is not None:
        pass  # each look is a request
    refused = await put_off((device, https), sequence=1)
    assert (refused.status_code, "expected at most 1, found 1 before this" in refused.text) == (409, True)
    action = await action_of(live, rollout)
    assert (action["state"], action["deferrals"], action["hold"]) == ("offered", 1, None)
    plain = ActionReport(action_id=action["id"], sequence=9, state=ActionState.SCHEDULED)
    wrong = await https.post("/reports", content=plain.model_dump_json())
    assert (wrong.status_code, "report: expected one of" in wrong.text) == (422, True)
    await https.aclose()


async def put_off(connected: Connected, *, sequence: int) -> httpx.Response:
    """Wait for an offer, take it up, and put it off."""
    _, action_id = await next_offer([connected])
    await connected[1].get("/uptane/director/timestamp.json")
    report = ActionReport(action_id=action_id, sequence=sequence, state=ActionState.SCHEDULED, defer_seconds=3600)
    return await connected[1].post("/reports", content=report.model_dump_json())


async def action_of(live: LiveService, rollout: dict[str, Any]) -> dict[str, Any]:
    """Return the one action of a rollout."""
    (action,) = (await live.operator.get(f"/rollouts/{rollout['id']}/actions")).json()["items"]
    return dict(action)
