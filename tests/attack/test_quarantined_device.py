"""What a quarantined device reaches over real TLS: the update path, and nothing else, whatever certificate it shows."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.document import parse_document
from protocol.geometry import Slot
from protocol.identity import Access
from protocol.messages import AttestationReply
from protocol.signing import SoftwareSigner
from service.api.device_gate import REACH, Caller, reach_of
from tests.attesting_device import HONEST, AttestingDevice, component
from tests.integration.gateway.mqtt_peer import CONNACK_OK, connect_packet
from tests.live_service import Credential, LiveService, live_service
from tests.service_folder import make_folders

NOT_AUTHORISED = b"\x20\x02\x00\x05"  # CONNACK [MQTT-3.2.2-3]
STRANGER = component(Slot.M4_0_MODEL, b"\x66" * 32)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path)) as service:
        yield service


async def set_policy(live: LiveService, **policy: Any) -> httpx.Response:
    groups = await live.operator.get("/device-groups", params={"product": "Camera", "name": "Production"})
    group = groups.json()["items"][0]["id"]
    return await live.operator.patch(f"/device-groups/{group}", json={"attestation": policy})


async def quarantined(live: LiveService, device: AttestingDevice) -> Credential:
    """Let a device show an unknown model, and return the certificate that it gets."""
    (await set_policy(live, unknown="quarantine")).raise_for_status()
    device.evidence = replace(HONEST, components=(*HONEST.components, STRANGER))
    key = SoftwareSigner.generate()
    answer = await live.ask_to_attest(device, key)
    answer.raise_for_status()
    reply = parse_document(answer.content, AttestationReply)
    assert reply.access is Access.UPDATE_ONLY
    return Credential(key, reply.certificate_chain)


async def test_update_only_certificate_opens_the_update_path_alone(live: LiveService) -> None:
    """It polls and asks for metadata; no MQTT, no attestation endpoint, nothing beside."""
    device = await live.claimed()
    credential = await quarantined(live, device)
    async with live.https(device, credential) as https:
        assert (await https.get("/poll")).status_code == httpx.codes.OK
        assert (await https.get("/uptane/director/timestamp.json")).status_code == httpx.codes.OK
        for path in ("/attest", "/attest/nonce", "/twin", "/nothing", "/polling"):
            assert (await https.get(path)).status_code == httpx.codes.FORBIDDEN, path
    mqtt = await live.mqtt(device, credential)
    assert await mqtt.exchange(connect_packet(device.device_id)) == NOT_AUTHORISED
    await mqtt.close()


async def test_quarantine_takes_an_older_certificate_of_full_access_back(live: LiveService) -> None:
    """The live MQTT connection closes, no new one opens, and HTTPS reaches updates alone."""
    device = await live.claimed()
    full = await live.attest(device)
    mqtt = await live.mqtt(device, full)
    assert await mqtt.exchange(connect_packet(device.device_id)) == CONNACK_OK
    await quarantined(live, device)
    assert await mqtt.closed() == b""
    again = await live.mqtt(device, full)
    assert await again.exchange(connect_packet(device.device_id)) == NOT_AUTHORISED
    await again.close()
    await mqtt.close()
    async with live.https(device, full) as https:
        assert (await https.get("/poll")).status_code == httpx.codes.OK
        assert (await https.get("/nothing")).status_code == httpx.codes.FORBIDDEN


async def test_refusal_takes_an_older_certificate_back(live: LiveService) -> None:
    """What it booted is refused: the live MQTT connection closes, nothing opens; honest again, it comes in whole."""
    device = await live.claimed()
    full = await live.attest(device)
    mqtt = await live.mqtt(device, full)
    assert await mqtt.exchange(connect_packet(device.device_id)) == CONNACK_OK
    device.evidence = replace(HONEST, components=(*HONEST.components, STRANGER))
    refused = await live.ask_to_attest(device, SoftwareSigner.generate())
    assert (refused.status_code, "m4-0/model" in refused.text) == (httpx.codes.FORBIDDEN, True)
    assert await mqtt.closed() == b""
    await mqtt.close()
    again = await live.mqtt(device, full)
    assert await again.exchange(connect_packet(device.device_id)) == NOT_AUTHORISED
    await again.close()
    async with live.https(device, full) as https:
        for path in ("/poll", "/uptane/director/timestamp.json", "/nothing"):
            assert (await https.get(path)).status_code == httpx.codes.FORBIDDEN, path
    shown = (await live.operator.get(f"/devices/{device.device_id}")).json()
    assert (shown["state"], shown["admission"]["admitted"]) == ("refused", False)
    device.evidence = HONEST
    honest = await live.mqtt(device, await live.attest(device))
    assert await honest.exchange(connect_packet(device.device_id)) == CONNACK_OK
    await honest.close()


async def test_refusal_for_another_reason_takes_nothing_back(live: LiveService) -> None:
    """A used nonce or a used key says nothing about what the device booted."""
    device = await live.claimed()
    full = await live.attest(device)
    async with live.https(device) as https:
        request = device.request(b"\x01" * 32, SoftwareSigner.generate())
        stale = await https.post("/attest", content=request.model_dump_json())
    reused = await live.ask_to_attest(device, full.key)
    assert (stale.status_code, reused.status_code) == (httpx.codes.FORBIDDEN, httpx.codes.FORBIDDEN)
    mqtt = await live.mqtt(device, full)
    assert await mqtt.exchange(connect_packet(device.device_id)) == CONNACK_OK
    await mqtt.close()


async def test_healed_device_comes_in_whole(live: LiveService) -> None:
    """With known images again it gets full access at once."""
    device = await live.claimed()
    await quarantined(live, device)
    device.evidence = HONEST
    healed = await live.attest(device)
    mqtt = await live.mqtt(device, healed)
    assert await mqtt.exchange(connect_packet(device.device_id)) == CONNACK_OK
    await mqtt.close()


async def test_operator_sees_who_the_device_is_and_why_it_is_restricted(live: LiveService) -> None:
    """Identity, evidence, policy and reasons, from one request."""
    device = await live.claimed()
    await quarantined(live, device)
    shown = (await live.operator.get(f"/devices/{device.device_id}")).json()
    assert shown["admission"]["access"] == "update-only"
    assert [reason.partition(" since ")[0] for reason in shown["admission"]["reasons"]] == [
        "attestation quarantined it"
    ]
    assert (shown["state"], shown["attestation"]["result"]) == ("quarantined", "quarantined")
    assert shown["attestation"]["ear_status"] == "contraindicated"
    assert (shown["policy"]["unknown"], shown["idevid"]["serial"]) == ("quarantine", shown["idevid_serial"])
    parts = {part["slot"]: part for part in shown["evidence"]["components"]}
    assert (parts["os"]["listed"], parts["m4-0/model"]["listed"]) == ("os@1.0.0", None)
    assert (shown["evidence"]["life_cycle"], shown["issuing_ca"]) == ("SECURED", 1)
    await live.operator.post(f"/devices/{device.device_id}/block", json={"reason": "lost"})
    blocked = (await live.operator.get(f"/devices/{device.device_id}")).json()["admission"]
    assert (blocked["admitted"], blocked["reasons"][0].endswith(": lost")) == (False, True)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"minimum_os": "one"}, "minimum OS: expected up to four numbers as in 1.2, found 'one'"),
        ({"life_cycles": ["lost"]}, "expected one of assembly-and-test, provisioning, secured, found 'lost'"),
        ({"life_cycles": ["decommissioned"]}, "expected some of assembly-and-test, provisioning, secured"),
        ({"life_cycles": []}, "found none"),
        ({"certificate_hours": 0.01}, "certificate lifetime: expected at least 0:05:00"),
        ({"unknown": "ignore"}, "attestation.unknown"),
        ({"maximum_os": "2"}, "attestation.maximum_os"),
    ],
)
async def test_wrong_policy_is_refused_and_changes_nothing(
    live: LiveService, policy: dict[str, Any], expected: str
) -> None:
    """Each with what was expected and found."""
    before = (await set_policy(live, minimum_os="1.2", certificate_hours=2, debug=True)).json()["attestation"]
    assert before == {
        "minimum_os": "1.2",
        "life_cycles": ["secured"],
        "debug": True,
        "certificate_hours": 2.0,
        "unknown": "refuse",
    }
    refused = await set_policy(live, **policy)
    assert (refused.status_code, expected in refused.json()["detail"]) == (422, True), refused.text
    assert (await set_policy(live)).json()["attestation"] == before


def test_every_path_has_somebody_who_reaches_it() -> None:
    """And an unknown one is for full access alone."""
    assert all(callers for _, callers in REACH)
    assert reach_of("/device/v1/attest/nonce") == {Caller.IDEVID}
    assert reach_of("/device/v1/attestation") == reach_of("/") == {Caller.FULL}
    assert reach_of("/.well-known/est/simpleenroll") == {Caller.IDEVID}
    assert Caller.UPDATE_ONLY in reach_of("/.well-known/est/simplereenroll")
