"""What everybody may ask about revocation, by HTTP: answered up to a rate that all callers share."""

from collections.abc import AsyncIterator
from types import SimpleNamespace

import httpx
import pytest
from cryptography.x509 import ocsp
from fastapi import FastAPI

from pki.ocsp import MAX_REQUEST_BYTES
from service.api.problems import add_problem_handlers
from service.api.revocation import public_router
from service.application.request_rate import PublicRate
from tests.integration.service_devices.device_world import DeviceWorld
from tests.integration.service_devices.revoking import Revoking

BURST = 3


@pytest.fixture
async def stranger(world: DeviceWorld) -> AsyncIterator[tuple[httpx.AsyncClient, Revoking]]:
    """A client without credential, and who publishes the lists."""
    revoking, app = Revoking(world), FastAPI()
    app.state.services = SimpleNamespace(
        public_rate=PublicRate(world.clock, per_second=0.5, burst=BURST), revocations=revoking.revocations
    )
    add_problem_handlers(app)
    app.include_router(public_router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="https://fleet.test") as client:
        yield client, revoking


def status(answer: httpx.Response) -> str:
    return ocsp.load_der_ocsp_response(answer.content).response_status.name


async def test_flood_is_put_off_and_served_again(
    world: DeviceWorld, stranger: tuple[httpx.AsyncClient, Revoking]
) -> None:
    """OCSP clients are told to try later, readers of lists by 429; both learn when."""
    client, revoking = stranger
    await revoking.publish(1, {})
    path = f"/pki/crl/{revoking.key_id}.crl"
    for _ in range(BURST):
        assert status(await client.post("/pki/ocsp", content=b"\x30")) == "MALFORMED_REQUEST"
    for put_off in (await client.post("/pki/ocsp", content=b"\x30"), await client.get("/pki/ocsp/MA==")):
        assert (status(put_off), put_off.headers["Retry-After"]) == ("TRY_LATER", "2")
        assert put_off.headers["Cache-Control"] == "no-store"
    refused = await client.get(path)
    assert (refused.status_code, refused.headers["Retry-After"]) == (httpx.codes.TOO_MANY_REQUESTS, "2")
    world.clock.advance(2)
    assert (await client.get(path)).status_code == httpx.codes.OK


async def test_long_request_is_not_read(stranger: tuple[httpx.AsyncClient, Revoking]) -> None:
    """What cannot be a request costs no decoding."""
    answer = await stranger[0].post("/pki/ocsp", content=bytes(MAX_REQUEST_BYTES + 1))
    assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
