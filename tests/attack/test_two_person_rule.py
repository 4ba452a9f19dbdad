"""One person who plays two: over HTTPS, by token and certificate of one name, by replay, and by a second name."""

import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from pki.profiles import operator_client
from protocol.signing import SoftwareSigner
from tests.attesting_device import AttestingDevice, client_context
from tests.live_service import LiveService, live_service
from tests.service_folder import TOKENS, make_folders


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(
        make_folders(tmp_path), two_person_actions=("device.block", "device.decommission")
    ) as service:
        yield service


async def ask(live: LiveService, device: AttestingDevice, **headers: str) -> httpx.Response:
    """Ask for a block as the admin."""
    body = {"reason": "stolen"}
    return await live.operator.post(f"/devices/{device.device_id}/block", json=body, headers=headers)


async def state(live: LiveService, device: AttestingDevice) -> str:
    return str((await live.operator.get(f"/devices/{device.device_id}")).json()["state"])


def by_token(live: LiveService, name: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        verify=ssl.create_default_context(cafile=str(live.addresses.ca)),
        base_url=live.operator.base_url,
        headers={"Authorization": f"Bearer {TOKENS[name]}"},
    )


def by_certificate(live: LiveService, name: str) -> httpx.AsyncClient:
    key, root = SoftwareSigner.generate(), live.folders.root
    leaf = root.issue(operator_client(name, now=datetime.now(UTC)), key.public_key)  # noqa: TID251 - as TLS
    context = client_context(live.addresses.ca, key, root.chain_pem(leaf).decode())
    return httpx.AsyncClient(verify=context, base_url=live.operator.base_url)


async def test_request_waits_and_another_operator_does_it(live: LiveService) -> None:
    """202 and where to look; nothing is done before; 200 for the second person, who needs the role."""
    device = await live.claimed()
    answer = await ask(live, device)
    assert answer.status_code == httpx.codes.ACCEPTED
    request = answer.json()
    assert answer.headers["Location"] == f"/api/v1/approvals/{request['id']}"
    assert (request["state"], request["requested_by"], request["arguments"]) == (
        "pending",
        "admin",
        {"reason": "stolen"},
    )
    assert await state(live, device) == "claimed"
    listed = (await live.operator.get("/approvals")).json()["items"]
    assert [one["id"] for one in listed] == [request["id"]]

    async with by_token(live, "viewer") as viewer:
        assert (await viewer.post(f"/approvals/{request['id']}/approve")).status_code == httpx.codes.FORBIDDEN
    async with by_token(live, "operator") as second:
        approved = await second.post(f"/approvals/{request['id']}/approve")
    assert approved.status_code == httpx.codes.OK
    assert (approved.json()["state"], approved.json()["decided_by"]) == ("approved", "operator")
    assert await state(live, device) == "blocked"
    audit = (await live.operator.get("/audit", params={"subject": device.device_id})).json()["items"]
    assert (audit[0]["actor"], audit[0]["after"]["approved_by"]) == ("admin", "operator")


async def test_certificate_of_the_same_name_is_the_same_person(live: LiveService) -> None:
    """The token asks, the certificate approves: refused, whatever the order of the two."""
    device = await live.claimed()
    request = (await ask(live, device)).json()["id"]
    async with by_certificate(live, "admin") as same:
        assert (await same.get("/operators/me")).json()["name"] == "admin"
        refused = await same.post(f"/approvals/{request}/approve")
    assert refused.status_code == httpx.codes.FORBIDDEN
    assert refused.json()["type"] == "urn:tinyfleet:problem:same-person"
    assert await state(live, device) == "claimed"
    async with by_certificate(live, "releaser") as other:
        assert (await other.post(f"/approvals/{request}/approve")).status_code == httpx.codes.OK
    assert await state(live, device) == "blocked"


async def test_operator_made_up_after_the_request_is_refused(live: LiveService) -> None:
    """An admin adds an operator and approves as that one."""
    device = await live.claimed()
    request = (await ask(live, device)).json()["id"]
    added = (await live.operator.post("/operators", json={"name": "mallory", "role": "admin"})).json()
    refused = await live.operator.post(
        f"/approvals/{request}/approve", headers={"Authorization": f"Bearer {added['token']}"}
    )
    assert refused.status_code == httpx.codes.FORBIDDEN
    assert "found mallory added since" in refused.json()["detail"]
    assert await state(live, device) == "claimed"


async def test_replayed_approval_does_nothing_twice(live: LiveService) -> None:
    """The captured request, with and without its idempotency key, after the device was unblocked."""
    device = await live.claimed()
    request = (await ask(live, device)).json()["id"]
    async with by_token(live, "operator") as second:
        path, key = f"/approvals/{request}/approve", {"Idempotency-Key": "k1"}
        assert (await second.post(path, headers=key)).status_code == httpx.codes.OK
        await live.operator.post(f"/devices/{device.device_id}/unblock")
        assert (await second.post(path, headers=key)).status_code == httpx.codes.OK  # the stored answer
        replayed = await second.post(path)
    assert replayed.status_code == httpx.codes.CONFLICT
    assert replayed.json()["type"] == "urn:tinyfleet:problem:approval-decided"
    assert await state(live, device) == "claimed"


async def test_second_request_for_the_same_is_told_of_the_first(live: LiveService) -> None:
    """409 with the id, so that the second person approves instead of asking."""
    device = await live.claimed()
    request = (await ask(live, device)).json()["id"]
    again = await ask(live, device)
    assert again.status_code == httpx.codes.CONFLICT
    assert again.json()["approval"] == request
    rejected = await live.operator.post(f"/approvals/{request}/reject")
    assert rejected.json()["state"] == "rejected"
    assert (await ask(live, device)).status_code == httpx.codes.ACCEPTED


async def decommission(live: LiveService, device: AttestingDevice) -> None:
    """Decommission a device by the two admins there are."""
    added = (await live.operator.post("/operators", json={"name": "adele", "role": "admin"})).json()
    path = f"/devices/{device.device_id}/decommission"
    request = (await live.operator.post(path, json={"reason": "scrapped"})).json()["id"]
    second = {"Authorization": f"Bearer {added['token']}"}
    (await live.operator.post(f"/approvals/{request}/approve", headers=second)).raise_for_status()


async def test_decommissioned_device_never_comes_back(live: LiveService) -> None:
    """Its certificate is worthless, and no operator claims, unblocks, blocks or decommissions it again."""
    device = await live.claimed()
    credential = await live.attest(device)
    await decommission(live, device)
    async with live.https(device, credential) as https:
        refused = await https.get("/poll")
    assert refused.status_code == httpx.codes.FORBIDDEN
    assert refused.json()["type"] == "urn:tinyfleet:problem:decommissioned-device"
    for verb in ("unblock", "block", "decommission", "clear-clone"):
        answer = await live.operator.post(f"/devices/{device.device_id}/{verb}", json={"reason": "x"})
        assert answer.status_code == httpx.codes.CONFLICT, verb
    assert (await live.claim(device)).status_code == httpx.codes.CONFLICT
    assert (await live.ask_to_attest(device, SoftwareSigner.generate())).status_code == httpx.codes.FORBIDDEN


async def test_decommissioned_device_remains_listed(live: LiveService) -> None:
    """With its history, and the serial of the certificate to revoke."""
    device = await live.claimed()
    await live.attest(device)
    await decommission(live, device)
    shown = (await live.operator.get(f"/devices/{device.device_id}")).json()
    assert shown["state"] == "decommissioned"
    leaf = x509.load_pem_x509_certificates(device.idevid_chain.encode())[0]
    assert shown["idevid_serial"] == f"{leaf.serial_number:x}"
    listed = (await live.operator.get("/devices", params={"state": "decommissioned"})).json()["items"]
    assert [one["id"] for one in listed] == [device.device_id]
    history = (await live.operator.get(f"/devices/{device.device_id}/attestations")).json()["items"]
    assert [one["result"] for one in history] == ["accepted"]
