"""The operator API over HTTPS, against the whole service."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from pki.profiles import operator_client
from protocol.geometry import Slot
from protocol.signing import SoftwareSigner
from tests.attesting_device import AttestingDevice, client_context, component
from tests.integration.gateway.mqtt_peer import CONNACK_OK, connect_packet, publish_packet
from tests.live_service import LiveService, live_service
from tests.service_folder import TOKENS, make_folders


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path), poll_seconds=60.0) as service:
        yield service


def token(role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKENS[role]}"}


async def test_new_product_has_the_default_groups(live: LiveService) -> None:
    """Azure Sphere's five, found by the names of product and group."""
    groups = (await live.operator.get("/device-groups", params={"product": "Camera"})).json()["items"]
    assert {group["name"] for group in groups} == {
        "Development",
        "Field Test",
        "Production",
        "Field Test OS Evaluation",
        "Production OS Evaluation",
    }
    query = {"product": "Camera", "name": "Production"}
    assert len((await live.operator.get("/device-groups", params=query)).json()["items"]) == 1


async def test_pages_hold_everything_once(live: LiveService) -> None:
    """Following the cursor yields each item once, and a made-up cursor is refused."""
    names = [f"Product {number:02}" for number in range(7)]
    for name in names:
        await live.operator.post("/products", json={"name": name})
    found: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        query = {"limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await live.operator.get("/products", params=query)).json()
        found += [product["name"] for product in page["items"]]
        cursor = page["next_cursor"]
    assert found == ["Camera", *names]
    assert (await live.operator.get("/audit", params={"cursor": "bm9uZQ"})).status_code == 422


async def test_change_based_on_an_old_copy_is_refused(live: LiveService) -> None:
    """Of two operators who read the same copy, the second one learns that the first was faster."""
    seen = (await live.operator.get("/products/Camera")).headers["ETag"]
    headers = {"If-Match": seen}
    first = await live.operator.patch("/products/Camera", json={"description": "a"}, headers=headers)
    second = await live.operator.patch("/products/Camera", json={"description": "b"}, headers=headers)
    assert (first.status_code, second.status_code) == (200, 412)
    now = await live.operator.get("/products/Camera")
    assert now.json()["description"] == "a"
    assert now.headers["ETag"] == first.headers["ETag"] != seen


async def test_repeated_request_is_done_once(live: LiveService) -> None:
    """The same idempotency key gives the same answer; with another request it is refused."""
    headers = {"Idempotency-Key": "k1"}
    first = await live.operator.post("/products", json={"name": "Lamp"}, headers=headers)
    again = await live.operator.post("/products", json={"name": "Lamp"}, headers=headers)
    other = await live.operator.post("/products", json={"name": "Fan"}, headers=headers)
    assert (first.status_code, again.status_code, other.status_code) == (201, 201, 422)
    malformed = await live.operator.post("/products", json={"name": 5}, headers={"Idempotency-Key": "k3"})
    corrected = await live.operator.post("/products", json={"name": "Five"}, headers={"Idempotency-Key": "k3"})
    assert (malformed.status_code, corrected.status_code) == (422, 201)
    assert again.json() == first.json()
    assert again.headers["ETag"] == first.headers["ETag"]
    refused = await live.operator.post("/products", json={"name": "Lamp"}, headers={"Idempotency-Key": "k2"})
    assert refused.status_code == 409
    assert (await live.operator.get("/products/Fan")).status_code == 404


async def test_roles_bound_what_an_operator_may(live: LiveService) -> None:
    """A viewer reads, an operator changes devices, an admin changes operators; nobody else does anything."""
    wanted = {"name": "Lamp"}
    assert (await live.operator.get("/products", headers=token("viewer"))).status_code == 200
    assert (await live.operator.post("/products", json=wanted, headers=token("viewer"))).status_code == 403
    assert (await live.operator.post("/products", json=wanted, headers=token("operator"))).status_code == 201
    assert (await live.operator.get("/operators", headers=token("releaser"))).status_code == 403
    unknown = await live.operator.get("/products", headers={"Authorization": "Bearer nobody"})
    assert unknown.status_code == 401
    assert unknown.headers["WWW-Authenticate"] == "Bearer"
    assert unknown.headers["Content-Type"] == "application/problem+json"


async def test_removed_operator_is_out_at_once(live: LiveService) -> None:
    """The token is shown once and worth nothing after removal; both are in the audit log."""
    added = await live.operator.post("/operators", json={"name": "eve", "role": "viewer"})
    headers = {"Authorization": f"Bearer {added.json()['token']}"}
    assert (await live.operator.get("/products", headers=headers)).status_code == 200
    assert (await live.operator.delete(f"/operators/{added.json()['id']}")).status_code == 204
    assert (await live.operator.get("/products", headers=headers)).status_code == 401
    audit = (await live.operator.get("/audit", params={"subject": added.json()["id"]})).json()["items"]
    assert [entry["action"] for entry in audit] == ["operator.remove", "operator.add"]
    assert audit[1]["detail"] == "name: eve, role: viewer"
    assert added.json()["token"] not in json.dumps(audit)
    listed = (await live.operator.get("/operators")).json()["items"]
    admin = next(operator for operator in listed if operator["name"] == "admin")
    assert (await live.operator.delete(f"/operators/{admin['id']}")).status_code == 409


async def test_operator_comes_in_by_certificate(live: LiveService) -> None:
    """A client certificate that the root issued takes the place of a token, if it names an operator."""
    now = datetime.now(UTC)  # noqa: TID251 - TLS reads the machine's clock
    answers = []
    for name in ("viewer", "stranger"):
        key, root = SoftwareSigner.generate(), live.folders.root
        leaf = root.issue(operator_client(name, now=now), key.public_key)
        context = client_context(live.addresses.ca, key, root.chain_pem(leaf).decode())
        async with httpx.AsyncClient(verify=context, base_url=str(live.operator.base_url)) as client:
            answers.append(await client.get("/operators/me"))
    assert [answer.status_code for answer in answers] == [200, 401]
    assert answers[0].json() == {"name": "viewer", "role": "viewer"}


async def test_device_is_shown_with_what_it_is_and_does(live: LiveService) -> None:
    """State, certificate, attestation and last-seen, by a unique beginning of the id."""
    device = await live.claimed()
    assert (await live.operator.get(f"/devices/{device.device_id[:8]}")).json()["state"] == "claimed"
    credential = await live.attest(device)
    async with live.https(device, credential) as https:
        assert (await https.get("/poll")).status_code == 200
    shown = (await live.operator.get(f"/devices/{device.device_id[:8]}")).json()
    assert (shown["id"], shown["state"], shown["group"]) == (device.device_id, "active", "Production")
    assert shown["last_seen"] is not None
    assert shown["attestation"]["result"] == "accepted"
    assert shown["certificate"]["not_after"] is not None
    assert (await live.operator.get("/devices/abcd1234")).status_code == 404
    listed = (await live.operator.get("/devices", params={"state": "active", "group": "Production"})).json()
    assert [item["id"] for item in listed["items"]] == [device.device_id]


async def test_duplicate_claim_is_a_conflict(live: LiveService) -> None:
    """409 with a problem document that names the rule."""
    device = AttestingDevice(live.folders)
    first, second = await live.claim(device), await live.claim(device)
    assert (first.status_code, second.status_code) == (201, 409)
    assert second.json()["type"] == "urn:tinyfleet:problem:already-claimed"


async def test_explanation_names_every_obstacle(live: LiveService) -> None:
    """Refused at attestation, blocked, no rollout: an operator reads all of it at once."""
    device = await live.claimed()
    fresh = (await live.operator.get(f"/devices/{device.device_id}/explain")).json()
    assert fresh["updating"] is False
    assert any("not attested" in reason for reason in fresh["reasons"])
    stranger = component(Slot.M4_1_FIRMWARE, b"\x66" * 32)
    device.evidence = replace(device.evidence, components=(*device.evidence.components[:-1], stranger))
    refused = await live.ask_to_attest(device, SoftwareSigner.generate())
    assert refused.status_code == 403
    assert refused.json()["appraisal"][0]["component"] == "m4-1/firmware"
    await live.operator.post(f"/devices/{device.device_id}/block", json={"reason": "odd firmware"})
    reasons = " | ".join((await live.operator.get(f"/devices/{device.device_id}/explain")).json()["reasons"])
    assert "blocked since" in reasons
    assert "odd firmware" in reasons
    assert "m4-1/firmware: expected a listed firmware" in reasons
    listed = (await live.operator.get("/attestations", params={"result": "refused"})).json()["items"]
    assert [item["device_id"] for item in listed] == [device.device_id]


async def test_telemetry_comes_in_by_mqtt_and_out_by_page_count_and_tail(live: LiveService) -> None:
    """What the gateway has acknowledged is what the API shows."""
    device = await live.claimed()
    credential = await live.attest(device)
    mqtt = await live.mqtt(device, credential)
    assert await mqtt.exchange(connect_packet(device.device_id)) == CONNACK_OK
    assert (await live.operator.get(f"/devices/{device.device_id}")).json()["connected"] is True
    topic = f"tinyfleet/v1/{device.device_id}/telemetry/inference"
    assert (await mqtt.exchange(publish_packet(topic, b'{"label":"person"}')))[0] == 0x40
    page = (await live.operator.get("/telemetry", params={"device": device.device_id[:12]})).json()
    assert [item["payload"] for item in page["items"]] == [{"label": "person"}]
    assert (await live.operator.get("/telemetry/count", params={"stream": "inference"})).json() == {"count": 1}
    async with live.operator.stream("GET", "/telemetry/stream", params={"stream": "inference"}) as tail:
        lines = tail.aiter_lines()
        assert await anext(lines) == ": heartbeat"
        assert (await mqtt.exchange(publish_packet(topic, b"\xff", packet_id=2)))[0] == 0x40
        async with asyncio.timeout(20):
            data = await data_of(lines)
    assert data["payload"] == {"base64": "/w=="}
    summary = (await live.operator.get("/fleet/summary")).json()
    assert (summary["connected"], summary["telemetry_stored"], summary["attestations"]["accepted"]) == (1, 2, 1)
    await mqtt.close()


async def data_of(lines: AsyncIterator[str]) -> dict[str, object]:
    """Return the data of the next server-sent event."""
    async for line in lines:
        if line.startswith("data: "):
            found: dict[str, object] = json.loads(line.removeprefix("data: "))
            return found
    raise AssertionError("the stream ended without an event")


async def test_stream_resumes_where_it_stopped(live: LiveService) -> None:
    """Last-Event-ID brings what was missed, in order and once."""
    device = await live.claimed()
    async with live.operator.stream("GET", "/stream", headers={"Last-Event-ID": "0"}) as stream:
        lines, seen = stream.aiter_lines(), []
        async with asyncio.timeout(20):
            while "claimed" not in seen:
                seen.append(str((await data_of(lines))["change"]))
            await live.operator.post(f"/devices/{device.device_id}/block", json={"reason": "lost"})
            assert (await data_of(lines))["change"] == "blocked"


async def test_probes_and_metrics(live: LiveService) -> None:
    """Health needs no credential, metrics do."""
    base = live.addresses.operator_url
    anonymous = {"Authorization": ""}
    assert (await live.operator.get(f"{base}/healthz", headers=anonymous)).json() == {"status": "ok"}
    assert (await live.operator.get(f"{base}/metrics", headers=anonymous)).status_code == 401
    metrics = await live.operator.get(f"{base}/metrics", headers=token("viewer"))
    assert 'tinyfleet_devices{state="claimed"} 0.0' in metrics.text


async def test_unknown_path_and_method_are_problems(live: LiveService) -> None:
    """Even what no endpoint answers is a problem document."""
    for answer in (await live.operator.get("/nothing"), await live.operator.put("/products", json={})):
        assert answer.status_code in {404, 405}
        assert answer.headers["Content-Type"] == "application/problem+json"
