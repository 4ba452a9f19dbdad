"""A release and its rollout over real HTTPS: operator token on one side, LDevID on the other."""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tuf.api.metadata import Metadata, Targets

from protocol.geometry import Slot
from protocol.image import digest_of
from protocol.messages import ActionReport, ActionState, PollReply
from protocol.updates import DEVICE_FIELD
from service.adapters.database.engine import Database, database_url
from tests.attesting_device import AttestingDevice
from tests.integration.service_updates.update_world import UpdateWorld, Upload
from tests.live_service import LiveService, live_service
from tests.service_folder import make_folders

Connected = tuple[AttestingDevice, httpx.AsyncClient]
STAGES = [{"count": 1}, {"percent": 100}]


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path), tick_seconds=0.2) as service:
        yield service


@asynccontextmanager
async def operator_of(live: LiveService) -> AsyncIterator[UpdateWorld]:
    """The operator's signing tools beside the running service."""
    database = Database(database_url(live.settings.database_location()))
    try:
        yield UpdateWorld(live.folders, database)
    finally:
        await database.close()


async def publish(live: LiveService, name: str) -> Upload:
    """Sign a release and hand it over as the CLI does."""
    async with operator_of(live) as world:
        upload = await world.prepare(name, {Slot.A7_APPLICATION: world.package(f"{name}@1.0.0")})
        metadata = world.sign(upload)
    for content in upload.contents.values():
        path = f"/artifacts/{digest_of(content)}"
        assert (await live.operator.head(path)).status_code == httpx.codes.NOT_FOUND
        assert (await live.operator.put(path, content=content)).status_code == httpx.codes.CREATED
        assert (await live.operator.head(path)).headers["content-length"] == str(len(content))
    body = {
        "name": name,
        "metadata": {"targets": base64.b64encode(metadata).decode()},
        "release_target": upload.release_target,
    }
    answer = await live.operator.post("/releases", json=body)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    return upload


async def start(live: LiveService, release: str, **fields: object) -> dict[str, Any]:
    body = {"release": release, "group": "Production", "product": "Camera", "stages": STAGES, "start": True, **fields}
    answer = await live.operator.post("/rollouts", json=body)
    assert answer.status_code == httpx.codes.CREATED, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def next_offer(connected: list[Connected]) -> tuple[Connected, str]:
    """Poll in turn until something waits for one of the devices; the test's own time limit ends it."""
    for device, https in itertools.cycle(connected):
        reply = PollReply.model_validate_json((await https.get("/poll")).content)
        assert reply.next_poll_seconds > 0
        if reply.action_id is not None:
            return (device, https), reply.action_id
        await asyncio.sleep(0.05)
    raise AssertionError("expected devices, found none")


async def test_release_reaches_devices_and_finishes(live: LiveService) -> None:
    """Upload, release, rollout, poll, metadata, artifact, report: the rollout ends as finished."""
    devices = [await live.claimed() for _ in range(2)]
    connected = [(device, live.https(device, await live.attest(device))) for device in devices]
    upload = await publish(live, "first")
    rollout = await start(live, "first")
    assert (rollout["state"], rollout["release"], rollout["group"]) == ("running", "first", "Production")
    package = next(content for name, content in upload.contents.items() if name.startswith("images/"))
    while connected:
        chosen, action_id = await next_offer(connected)
        await _update(chosen[1], chosen[0], action_id, package)
        await chosen[1].aclose()
        connected.remove(chosen)
    final = (await live.operator.get(f"/rollouts/{rollout['id']}")).json()
    assert final["state"] == "finished"
    assert final["totals"] == {"succeeded": 2, "failed": 0, "reverted": 0, "cancelled": 0, "exposed": 2}
    actions = (await live.operator.get(f"/rollouts/{rollout['id']}/actions")).json()["items"]
    assert sorted(action["stage"] for action in actions) == [1, 2]


async def _update(https: httpx.AsyncClient, device: AttestingDevice, action_id: str, package: bytes) -> None:
    """Do what a device does, short of verifying: that is the simulator's part."""
    files = [await https.get(f"/uptane/director/{role}.json") for role in ("timestamp", "snapshot", "targets")]
    signed = Metadata[Targets].from_bytes(files[2].content).signed
    assert signed.unrecognized_fields[DEVICE_FIELD] == {
        "device_id": device.device_id,
        "action_id": action_id,
        "order": "install",
        "shadow": None,
        "attempt": 1,
    }
    missing = await https.get("/uptane/director/2.root.json")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")
    versioned = await https.get(f"/uptane/director/{signed.version}.targets.json")
    assert versioned.content == files[2].content
    image = await https.get("/uptane/image/timestamp.json")
    assert image.status_code == httpx.codes.OK
    path = f"/artifacts/{digest_of(package)}"
    first = await https.get(path, headers={"Range": "bytes=0-99"})
    rest = await https.get(path, headers={"Range": "bytes=100-"})
    assert first.content + rest.content == package
    report = ActionReport(
        action_id=action_id,
        sequence=1,
        state=ActionState.CONFIRMED,
        digests={Slot.A7_APPLICATION: digest_of(package)},
    )
    for _ in range(2):
        assert (await https.post("/reports", content=report.model_dump_json())).status_code == 204


async def test_operator_sees_and_stops_a_rollout(live: LiveService) -> None:
    """Draft, start, pause, resume, abort; each step twice is the same; the audit log knows them."""
    await live.attest(await live.claimed())
    await publish(live, "first")
    rollout = await start(live, "first", start=False)
    path = f"/rollouts/{rollout['id']}"
    for verb, state in (("start", "running"), ("pause", "paused"), ("resume", "running"), ("abort", "aborted")):
        for _ in range(2):
            answer = await live.operator.post(f"{path}/{verb}")
            assert (answer.status_code, answer.json()["state"]) == (200, state)
    refused = await live.operator.post(f"{path}/resume")
    assert refused.status_code == 409
    assert "expected paused, found aborted" in refused.json()["detail"]
    done = [entry["action"] for entry in (await live.operator.get("/audit")).json()["items"]]
    assert [action for action in done if action.startswith("rollout.")] == [
        "rollout.abort",
        "rollout.resume",
        "rollout.pause",
        "rollout.start",
        "rollout.create",
    ]


async def test_wrong_requests_name_what_is_wrong(live: LiveService) -> None:
    """Unknown names, empty groups, wrong plans and wrong bytes are 4xx with expected and found."""
    await publish(live, "first")
    body = {"release": "first", "group": "Production", "product": "Camera", "stages": STAGES, "start": True}
    cases: list[tuple[dict[str, object], int, str]] = [
        ({}, 409, "expected at least one active device"),
        ({"release": "none"}, 404, "expected an id or name in force"),
        ({"group": "none"}, 404, "none"),
        ({"group": "Development"}, 409, "expected a policy that takes updates"),
        ({"stages": []}, 422, "stages"),
        ({"stages": [{"count": 1, "percent": 5}]}, 422, "either a count or a percent"),
        ({"success_percent": 0}, 422, "success_percent"),
        ({"error_percent": 100}, 422, "percent"),
    ]
    for change, status, detail in cases:
        answer = await live.operator.post("/rollouts", json={**body, **change})
        assert (answer.status_code, detail in answer.json()["detail"]) == (status, True), answer.text
    garbage = await live.operator.put(f"/artifacts/{digest_of(b'garbage')}", content=b"garbage")
    assert garbage.status_code == 422
    wrong_hash = await live.operator.put(f"/artifacts/{'0' * 64}", content=b"garbage")
    assert "expected SHA-256" in wrong_hash.json()["detail"]
    assert (await live.operator.get("/rollouts")).json()["items"] == []


async def test_metadata_and_images_are_shown_to_operators(live: LiveService) -> None:
    """What the CLI verifies before it signs, and what a dashboard lists."""
    await publish(live, "first")
    for file in ("root", "targets", "snapshot", "timestamp", "1.root", "2.targets"):
        answer = await live.operator.get(f"/repository/image/{file}.json")
        assert (answer.status_code, "signed" in answer.json()) == (200, True)
    assert (await live.operator.get("/repository/director/root.json")).status_code == 200
    assert (await live.operator.get("/repository/image/9.targets.json")).status_code == 404
    assert (await live.operator.get("/repository/image/passwd")).status_code == 404
    images = (await live.operator.get("/images")).json()["items"]
    shown = next(image for image in images if image["name"] == "first@1.0.0")
    assert (await live.operator.get(f"/images/{shown['id']}")).json() == shown
    release = (await live.operator.get("/releases/first")).json()
    assert release["images"][0]["sha256"] == shown["sha256"]
    assert (await live.operator.get("/releases")).json()["items"] == [release]
