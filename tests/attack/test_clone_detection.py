"""A copied device beside its original, over real TLS: each sign is found, and a device alone shows none."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.document import sign_document
from protocol.messages import MANIFEST_PAYLOAD_TYPE, VersionManifest
from service.domain.clone import REKEYING_GRACE, TAKE_OVERS
from tests.attesting_device import AttestingDevice
from tests.integration.gateway.mqtt_peer import CONNACK_OK, MqttPeer, connect_packet
from tests.live_service import Credential, LiveService, live_service
from tests.service_folder import make_folders
from tests.service_processes import until

HERE, THERE = "127.0.0.1", "127.0.0.2"


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path)) as service:
        yield service


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path), on_clone="block") as service:
        yield service


async def shown(live: LiveService, device: AttestingDevice) -> dict[str, Any]:
    return dict((await live.operator.get(f"/devices/{device.device_id}")).json())


async def suspected(live: LiveService, device: AttestingDevice) -> str:
    """Wait for the suspicion and return its evidence."""

    async def is_there() -> bool:
        return (await shown(live, device))["clone_suspected_at"] is not None

    await until(is_there)
    return str((await shown(live, device))["clone_detail"])


async def attest_after_boot(live: LiveService, device: AttestingDevice, number: int) -> Credential:
    device.evidence = replace(device.evidence, boot_seed=number.to_bytes(32, "big"))
    return await live.attest(device)


async def poll(live: LiveService, device: AttestingDevice, credential: Credential) -> int:
    async with live.https(device, credential) as https:
        return (await https.get("/poll")).status_code


async def connect_from(source: str, live: LiveService, device: AttestingDevice, credential: Credential) -> MqttPeer:
    address = (live.addresses.mqtt_host, live.addresses.mqtt_port)
    reader, writer = await asyncio.open_connection(
        *address, ssl=live.tls(device, credential), server_hostname=address[0], local_addr=(source, 0)
    )
    peer = MqttPeer(reader, writer)
    assert await peer.exchange(connect_packet(device.device_id)) == CONNACK_OK
    return peer


async def test_copy_that_boots_beside_its_original_is_found(live: LiveService) -> None:
    """Two roots of trust with one key draw seeds of their own; whoever attests second time gives both away."""
    device = await live.claimed()
    for number in (1, 2, 1):
        await attest_after_boot(live, device, number)
    assert (await suspected(live, device)).startswith("boot-seed: ")
    listed = (await live.operator.get("/devices", params={"suspected_clone": True})).json()["items"]
    assert [one["id"] for one in listed] == [device.device_id]
    assert (await live.operator.get("/fleet/summary")).json()["suspected_clones"] == 1


async def test_stolen_certificate_that_lives_on_is_found(live: LiveService) -> None:
    """The thief polls with the old LDevID, the device with its successor; both are valid."""
    device = await live.claimed()
    stolen = await live.attest(device)
    assert await poll(live, device, stolen) == httpx.codes.OK
    renewed = await live.attest(device)
    assert await poll(live, device, renewed) == httpx.codes.OK
    assert await poll(live, device, stolen) == httpx.codes.OK
    assert (await shown(live, device))["clone_suspected_at"] is None
    live.clock.offset = REKEYING_GRACE + timedelta(minutes=1)
    for credential in (renewed, stolen, renewed):
        assert await poll(live, device, credential) == httpx.codes.OK
    assert "in turns with it" in await suspected(live, device)


async def test_connection_from_before_rekeying_raises_no_suspicion(live: LiveService) -> None:
    """It is kept alive and polls for longer than the grace; a copy, which connects anew, is found meanwhile."""
    honest, copied = await live.claimed(), await live.claimed()
    old, stolen = await live.attest(honest), await live.attest(copied)
    async with live.https(honest, old) as kept:
        assert (await kept.get("/poll")).status_code == httpx.codes.OK
        renewed, replaced = await live.attest(honest), await live.attest(copied)
        assert await poll(live, honest, renewed) == httpx.codes.OK
        live.clock.offset = REKEYING_GRACE + timedelta(minutes=1)
        assert (await kept.get("/poll")).status_code == httpx.codes.OK
        assert await poll(live, honest, renewed) == httpx.codes.OK
    live.clock.offset = timedelta(0)
    assert [await poll(live, copied, each) for each in (stolen, replaced)] == [httpx.codes.OK] * 2
    live.clock.offset = REKEYING_GRACE + timedelta(minutes=1)
    assert [await poll(live, copied, each) for each in (stolen, replaced)] == [httpx.codes.OK] * 2
    await suspected(live, copied)  # is stored after what was noted before it
    assert (await shown(live, honest))["clone_suspected_at"] is None


async def test_two_that_push_each_other_out_are_found(live: LiveService) -> None:
    """One MQTT client id, two addresses, again and again."""
    device = await live.claimed()
    credential = await live.attest(device)
    peers = [await connect_from((HERE, THERE)[turn % 2], live, device, credential) for turn in range(TAKE_OVERS + 1)]
    assert f"between {HERE} and {THERE}" in await suspected(live, device)
    for peer in peers:
        await peer.close()


async def test_two_counters_of_one_key_are_found(live: LiveService) -> None:
    """Each copy counts its manifests for itself; the later one of a number was not sent twice, but signed twice."""
    device = await live.claimed()
    credential = await live.attest(device)

    async def send(counter: int, *, minute: int) -> httpx.Response:
        async with live.https(device, credential) as https:
            return await https.post("/manifest", content=manifest(live, device, counter, minute=minute))

    assert (await send(1, minute=0)).status_code == httpx.codes.NO_CONTENT
    assert (await send(2, minute=1)).status_code == httpx.codes.NO_CONTENT
    assert (await send(2, minute=2)).status_code == httpx.codes.CONFLICT
    assert await suspected(live, device) == "manifest: expected a manifest counter above 2, found 2 newly signed"


def manifest(live: LiveService, device: AttestingDevice, counter: int, *, minute: int) -> bytes:
    document = VersionManifest(
        device_id=device.device_id,
        counter=counter,
        reported_at=live.clock.now().replace(microsecond=0, second=0, minute=0) + timedelta(minutes=minute),
        images={},
    )
    return sign_document(document, MANIFEST_PAYLOAD_TYPE, device.identity)


async def test_device_alone_is_never_suspected(live: LiveService) -> None:
    """It reboots and attests many times, reconnects often, re-keys, and repeats a manifest whose answer was lost."""
    device = await live.claimed()
    peers, credential = [], await live.attest(device)
    for number in range(10):
        credential = await attest_after_boot(live, device, number)
        assert await poll(live, device, credential) == httpx.codes.OK
        peers += [await connect_from(HERE, live, device, credential) for _ in range(2)]
    live.clock.offset = REKEYING_GRACE + timedelta(minutes=1)
    assert await poll(live, device, credential) == httpx.codes.OK
    async with live.https(device, credential) as https:
        first, second = (manifest(live, device, counter, minute=counter) for counter in (1, 2))
        for envelope in (first, second, second, first):
            await https.post("/manifest", content=envelope)
    await asyncio.gather(*(peer.close() for peer in peers))
    await live.operator.get("/healthz")
    found = await shown(live, device)
    assert (found["clone_suspected_at"], found["state"]) == (None, "active")


async def test_strict_catalog_shuts_both_out(strict: LiveService) -> None:
    """Live connections close, and neither gets a certificate until an operator has decided."""
    device = await strict.claimed()
    credential = await attest_after_boot(strict, device, 1)
    mqtt = await connect_from(HERE, strict, device, credential)
    await attest_after_boot(strict, device, 2)
    with pytest.raises(httpx.HTTPStatusError, match="403"):
        await attest_after_boot(strict, device, 1)
    assert await mqtt.closed() == b""
    assert await poll(strict, device, credential) == httpx.codes.FORBIDDEN
    (await strict.operator.post(f"/devices/{device.device_id}/unblock")).raise_for_status()
    assert (await shown(strict, device))["clone_suspected_at"] is not None
    cleared = await strict.operator.post(f"/devices/{device.device_id}/clear-clone", json={"reason": "bench"})
    assert cleared.status_code == httpx.codes.NO_CONTENT
    assert (await shown(strict, device))["clone_suspected_at"] is None
    assert await poll(strict, device, credential) == httpx.codes.OK
    await mqtt.close()
