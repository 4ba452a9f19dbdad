"""What may be tried with learned states: by those without full access, by liars, by floods; nothing else changes."""

import hashlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from protocol.document import canonical_json, parse_document
from protocol.geometry import Core, Slot
from protocol.identity import Access
from protocol.learned_backup import LearnedOrders, LearnedUpload
from protocol.learned_state import HEADER, LearnedPrototype, LearnedState, encode_state
from protocol.messages import AttestationReply
from protocol.signing import SoftwareSigner
from tests.attesting_device import HONEST, AttestingDevice, component
from tests.learning_template import COMPONENT
from tests.live_service import Credential, LiveService, live_service
from tests.service_folder import TOKENS, make_folders

NORMAL = LearnedPrototype(100, (0.5,) * 18, (0.25,) * 18)
HONEST_STATE = encode_state(
    LearnedState(
        component_id=COMPONENT,
        layout_sha256="a" * 64,
        template_sha256="b" * 64,
        features=18,
        windows=100,
        sensitivity=1.0,
        prototypes=(NORMAL,),
    )
)


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path)) as service:
        yield service


async def back_up(https: httpx.AsyncClient, state: bytes = HONEST_STATE) -> httpx.Response:
    upload = LearnedUpload.model_construct(core=Core.M4_1, state=state)
    return await https.post("/learned", content=canonical_json(upload))


async def kept(live: LiveService, device: AttestingDevice) -> dict[str, Any]:
    (item,) = (await live.operator.get("/learned-states", params={"device": device.device_id})).json()["items"]
    return dict(item)


async def quarantine(live: LiveService, device: AttestingDevice) -> Credential:
    """Let a device show an unknown model, and return the certificate that it gets."""
    query = {"product": "Camera", "name": "Production"}
    group = (await live.operator.get("/device-groups", params=query)).json()["items"][0]["id"]
    await live.operator.patch(f"/device-groups/{group}", json={"attestation": {"unknown": "quarantine"}})
    stranger = component(Slot.M4_0_MODEL, b"\x66" * 32)
    device.evidence = replace(HONEST, components=(*HONEST.components, stranger))
    key = SoftwareSigner.generate()
    reply = parse_document((await live.ask_to_attest(device, key)).content, AttestationReply)
    assert reply.access is Access.UPDATE_ONLY
    return Credential(key, reply.certificate_chain)


def sealed(change: Callable[[bytearray], None]) -> bytes:
    """The honest state with something changed, and a digest that is right again."""
    body = bytearray(HONEST_STATE[:-32])
    change(body)
    return bytes(body) + hashlib.sha256(body).digest()


def _infinite_mean(body: bytearray) -> None:
    body[HEADER.size + 4 : HEADER.size + 8] = struct.pack("<f", float("inf"))


def _more_prototypes(body: bytearray) -> None:
    body[6] = 8


def _endless_features(body: bytearray) -> None:
    body[5] = 255


async def test_birth_certificate_and_quarantine_reach_no_learned_state(live: LiveService) -> None:
    """Neither reads orders nor overwrites a backup, with whatever certificate the device shows."""
    device = await live.claimed()
    full = await live.attest(device)
    async with live.https(device, full) as https:
        assert (await back_up(https)).status_code == httpx.codes.NO_CONTENT
    before = await kept(live, device)
    restricted = await quarantine(live, device)
    for credential in (None, restricted, full):
        async with live.https(device, credential) as https:
            assert (await https.get("/learned")).status_code == httpx.codes.FORBIDDEN
            assert (await back_up(https, HONEST_STATE)).status_code == httpx.codes.FORBIDDEN
    assert await kept(live, device) == before


@pytest.mark.parametrize("change", [_infinite_mean, _more_prototypes, _endless_features])
async def test_hostile_state_under_a_right_digest_is_refused(
    live: LiveService, change: Callable[[bytearray], None]
) -> None:
    """Whoever has the device's key can compute a digest; form and numbers are checked all the same."""
    device = await live.claimed()
    async with live.https(device, await live.attest(device)) as https:
        await back_up(https)
        before = await kept(live, device)
        answer = await back_up(https, sealed(change))
        assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
        assert answer.json()["type"].endswith(":learned-state")
    assert await kept(live, device) == before


async def test_lie_about_what_was_learned_changes_nothing_else(live: LiveService) -> None:
    """A blind detector is a state like any other: the device's standing, access and actions stay as they were."""
    device = await live.claimed()
    async with live.https(device, await live.attest(device)) as https:
        await back_up(https)
        before = (await live.operator.get(f"/devices/{device.device_id}")).json()
        blind = LearnedPrototype(2**32 - 1, (0.0,) * 18, (1e6,) * 18)
        lie = LearnedState("0" * 8 + COMPONENT[8:], "c" * 64, "d" * 64, 18, 2**32 - 1, 0.01, (blind,))
        assert (await back_up(https, encode_state(lie))).status_code == httpx.codes.NO_CONTENT
        after = (await live.operator.get(f"/devices/{device.device_id}")).json()
        for one in (before, after):
            one.pop("last_seen")
        assert after == before
        assert (await https.get("/poll")).status_code == httpx.codes.OK
    other = await live.claimed()
    async with live.https(other, await live.attest(other)) as https:
        waiting = LearnedOrders.model_validate_json((await https.get("/learned")).content)
        assert waiting.orders == ()  # it reaches no other device without an operator's word


async def test_viewer_orders_nothing(live: LiveService) -> None:
    """Reading is a viewer's; what a device does to its state takes an operator."""
    device = await live.claimed()
    async with live.https(device, await live.attest(device)) as https:
        await back_up(https)
        viewer = {"Authorization": f"Bearer {TOKENS['viewer']}"}
        path = f"/devices/{device.device_id}/learned/m4-1"
        assert (await live.operator.get(path, headers=viewer)).content == HONEST_STATE
        for order, body in (("restore", {"to": device.device_id}), ("reset", {"reason": "test"})):
            answer = await live.operator.post(f"{path}/{order}", json=body, headers=viewer)
            assert answer.status_code == httpx.codes.FORBIDDEN
        assert LearnedOrders.model_validate_json((await https.get("/learned")).content).orders == ()
