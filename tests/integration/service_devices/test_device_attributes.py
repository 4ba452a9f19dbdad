"""Attributes of devices over the operator API, and by the command line."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from protocol.messages import ClaimChallenge
from service.cli.attributes import RefusedRowsError
from service.cli.client import RefusedError
from tests.attesting_device import AttestingDevice
from tests.integration.cli.live_operator import Operator, live_operator


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    async with live_operator(tmp_path, monkeypatch) as running:
        yield running


async def attributes(operator: Operator, device_id: str) -> Any:
    return (await operator.succeed("device", "show", device_id))["attributes"]


async def test_attributes_are_set_changed_and_removed(operator: Operator) -> None:
    """By name; the rest stays. Each change raises the device's version and is in the audit log and the events."""
    device_id = (await operator.service.claimed()).device_id
    api = operator.service.operator
    before = (await api.get(f"/devices/{device_id}")).headers["ETag"]
    await operator.succeed("device", "attributes", "set", device_id[:16], "site=quay 1", "ring=a")
    changed = await operator.succeed("device", "attributes", "set", device_id, "ring=b", "region=eu")
    assert changed["attributes"] == {"site": "quay 1", "ring": "b", "region": "eu"}
    await operator.succeed("device", "attributes", "unset", device_id, "site", "unknown")
    assert await attributes(operator, device_id) == {"ring": "b", "region": "eu"}
    assert (await operator.succeed("device", "attributes", "show", device_id))["device_id"] == device_id
    audit = (await api.get("/audit", params={"subject": device_id})).json()["items"]
    assert [entry["action"] for entry in audit].count("device.attributes") == 3
    shown = await api.get(f"/devices/{device_id}")
    assert shown.headers["ETag"] != before
    stale = await api.put(f"/devices/{device_id}/attributes", json={}, headers={"If-Match": before})
    assert stale.status_code == 412
    again = await api.patch(f"/devices/{device_id}/attributes", json={"ring": "b"})
    assert again.headers["ETag"] == shown.headers["ETag"]
    emptied = await api.delete(f"/devices/{device_id}/attributes", headers={"If-Match": shown.headers["ETag"]})
    assert (emptied.status_code, emptied.json()["attributes"]) == (200, {})


async def test_attributes_that_none_may_have_are_refused(operator: Operator) -> None:
    """Too many, of another form, or of a device that there is not; nothing is half done."""
    device_id = (await operator.service.claimed()).device_id
    api, path = operator.service.operator, f"/devices/{device_id}/attributes"
    assert (await api.put(path, json={f"n{number}": "1" for number in range(32)})).status_code == 200
    assert (await api.patch(path, json={"one-more": "1"})).status_code == 422
    assert (await api.patch(path, json={"one-more": "1", "n0": None})).status_code == 200
    assert (await api.put(path, json={"Site": "a"})).status_code == 422
    assert (await api.get(f"/devices/{'0' * 128}/attributes")).status_code == 404
    gone = await operator.failure("device", "attributes", "set", "0" * 64, "a=b")
    assert isinstance(gone, RefusedError)
    (await api.post(f"/devices/{device_id}/decommission", json={"reason": "test"})).raise_for_status()
    assert (await api.put(path, json={})).status_code == 409


async def test_claim_gives_a_device_its_first_attributes(operator: Operator) -> None:
    """They are those of the claim's body."""
    live = operator.service
    device = AttestingDevice(live.folders)
    challenge = ClaimChallenge.model_validate_json((await live.operator.post("/claims/challenge")).content).challenge
    body = {
        "product": "Camera",
        "group": "Production",
        "proof": device.proof(challenge).model_dump(mode="json"),
        "attributes": {"site": "quay 1"},
    }
    claimed = await live.operator.post("/devices", json=body)
    assert (claimed.status_code, claimed.json()["attributes"]) == (201, {"site": "quay 1"})
    assert await attributes(operator, device.device_id) == {"site": "quay 1"}


async def test_file_sets_attributes_of_many(operator: Operator, tmp_path: Path) -> None:
    """Rows of devices that there are not are named by their line; the others are done, and again does no harm."""
    one, two = [(await operator.service.claimed()).device_id for _ in range(2)]
    file = tmp_path / "sites.csv"
    file.write_text(f"device,site,ring\n{one},quay 1,a\n{'0' * 128},x,y\n{two[:20]},quay 2,\n")
    result = await operator.run("device", "attributes", "import", str(file))
    assert isinstance(result.exception, RefusedRowsError)
    done = json.loads(result.stdout)
    assert (done["changed"], done["unchanged"], [row["line"] for row in done["refused"]]) == (2, 0, [3])
    assert await attributes(operator, one) == {"site": "quay 1", "ring": "a"}
    assert await attributes(operator, two) == {"site": "quay 2"}
    lines = tmp_path / "rings.jsonl"
    rows = [{"device": one, "attributes": {"ring": None}}, {"device": two, "attributes": {"ring": "b"}}]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = await operator.succeed("device", "attributes", "import", str(lines))
    again = await operator.succeed("device", "attributes", "import", str(lines))
    assert (first["changed"], again["changed"], again["unchanged"]) == (2, 0, 2)
    assert await attributes(operator, one) == {"site": "quay 1"}


async def test_of_two_changes_at_once_none_is_lost(operator: Operator) -> None:
    """Changes of different names by several requests at once are all there, or refused."""
    device_id = (await operator.service.claimed()).device_id
    path = f"/devices/{device_id}/attributes"
    requests = (operator.service.operator.patch(path, json={f"n{number}": "1"}) for number in range(8))
    answers = await asyncio.gather(*requests)
    done = {f"n{number}" for number, answer in enumerate(answers) if answer.status_code == 200}
    assert {answer.status_code for answer in answers} <= {200, 412}
    assert set(await attributes(operator, device_id)) == done


async def test_plan_says_how_many_devices_it_is_for(operator: Operator, tmp_path: Path) -> None:
    """Those of the group that match its target, by stages; a group that there is not is refused."""
    for site in ("quay 1", "quay 2", "quay 2"):
        device = await operator.service.claimed()
        await operator.service.attest(device)
        await operator.succeed("device", "attributes", "set", device.device_id, f"site={site}")
    await operator.service.claimed()  # has never attested, so it takes no release
    file = tmp_path / "plan.yaml"
    file.write_text("stages: [{count: 1}, {percent: 100}]\ntarget: {attribute: site, is: quay 2}\n")
    shown = await operator.succeed("rollout", "plan", str(file), "--group", "Production")
    assert shown["reach"] == {"devices": 3, "matching": 2, "stages": [1, 1]}
    assert shown["plan"]["target"] == {"attribute": "site", "is": "quay 2"}
    assert isinstance(await operator.failure("rollout", "plan", str(file), "--group", "Nobody"), RefusedError)
