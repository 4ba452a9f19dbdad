"""Learned states over the real HTTPS APIs: backed up, downloaded, restored to another device, reset."""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from protocol.document import canonical_json
from protocol.geometry import Core
from protocol.learned_backup import LearnedOrders, LearnedOutcome, LearnedUpload, OrderKind
from protocol.learned_state import MAX_STATE_BYTES, LearnedPrototype, LearnedState, encode_state
from tests.live_service import LiveService, live_service
from tests.service_folder import make_folders

COMPONENT = "6f1e2d3c-0000-4000-8000-000000000001"
UNKNOWN = "1" * 128


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path), poll_seconds=60.0) as service:
        yield service


def state(windows: int) -> bytes:
    numbers = tuple(float(n) for n in range(18))
    known = LearnedPrototype(windows=windows, mean=numbers, variance=numbers)
    return encode_state(
        LearnedState(
            component_id=COMPONENT,
            layout_sha256="a" * 64,
            template_sha256="b" * 64,
            features=18,
            windows=windows,
            sensitivity=1.0,
            prototypes=(known,) * 8,
        )
    )


Connect = Callable[[], Awaitable[tuple[str, httpx.AsyncClient]]]


@pytest.fixture
async def connected(live: LiveService) -> AsyncIterator[Connect]:
    async with AsyncExitStack() as stack:

        async def connect() -> tuple[str, httpx.AsyncClient]:
            device = await live.claimed()
            https = live.https(device, await live.attest(device))
            return device.device_id, await stack.enter_async_context(https)

        yield connect


async def back_up(https: httpx.AsyncClient, content: bytes) -> httpx.Response:
    upload = LearnedUpload(core=Core.M4_1, state=content)
    return await https.post("/learned", content=canonical_json(upload))


async def orders_of(https: httpx.AsyncClient) -> LearnedOrders:
    answer = await https.get("/learned")
    assert answer.status_code == httpx.codes.OK, answer.text
    return LearnedOrders.model_validate_json(answer.content)


async def test_backup_reaches_another_device_by_an_operators_order(live: LiveService, connected: Connect) -> None:
    """The largest state comes back byte for byte; the order is there until the device says how it went, once."""
    old, old_https = await connected()
    new, new_https = await connected()
    content = state(100)
    assert len(content) == MAX_STATE_BYTES
    assert (await back_up(old_https, content)).status_code == httpx.codes.NO_CONTENT
    (listed,) = (await live.operator.get("/learned-states", params={"device": old[:16]})).json()["items"]
    assert (listed["windows"], listed["prototypes"], listed["length"]) == (100, 8, len(content))
    assert listed["sha256"] == hashlib.sha256(content).hexdigest()
    assert (await live.operator.get(f"/devices/{old}/learned/m4-1")).content == content
    assert (await orders_of(new_https)).orders == ()
    answer = await live.operator.post(f"/devices/{old}/learned/m4-1/restore", json={"to": new})
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    (order,) = (await orders_of(new_https)).orders
    assert (order.kind, order.core, order.state) == (OrderKind.RESTORE, Core.M4_1, content)
    outcome = LearnedOutcome(order_id=order.order_id, is_done=True)
    for _ in range(2):
        said = await new_https.post("/learned/outcome", content=canonical_json(outcome))
        assert said.status_code == httpx.codes.NO_CONTENT
    assert (await orders_of(new_https)).orders == ()
    (settled,) = (await live.operator.get("/learned-orders", params={"device": new})).json()["items"]
    assert (settled["state"], settled["from_device"], settled["ordered_by"]) == (
        "done",
        old,
        answer.json()["ordered_by"],
    )
    audited = (await live.operator.get("/audit", params={"subject": new})).json()["items"]
    assert [entry["after"]["order"] for entry in audited if entry["action"] == "learned.restore"] == [order.order_id]


async def test_newer_order_takes_the_place_of_an_open_one(live: LiveService, connected: Connect) -> None:
    """A reset after a restore: the device finds the reset alone, and a word about the other changes nothing."""
    device, https = await connected()
    await back_up(https, state(50))
    first = (await live.operator.post(f"/devices/{device}/learned/m4-1/restore", json={"to": device})).json()
    reset = await live.operator.post(f"/devices/{device}/learned/m4-1/reset", json={"reason": "moved to another pump"})
    assert reset.status_code == httpx.codes.ACCEPTED, reset.text
    (order,) = (await orders_of(https)).orders
    assert (order.order_id, order.kind, order.state) == (reset.json()["id"], OrderKind.RESET, None)
    late = LearnedOutcome(order_id=first["id"], is_done=True)
    assert (await https.post("/learned/outcome", content=canonical_json(late))).status_code == httpx.codes.NO_CONTENT
    refused = LearnedOutcome(order_id=order.order_id, is_done=False, detail="expected a template, found none")
    await https.post("/learned/outcome", content=canonical_json(refused))
    found = (await live.operator.get("/learned-orders", params={"device": device})).json()["items"]
    assert [(each["kind"], each["state"]) for each in found] == [("reset", "refused"), ("restore", "withdrawn")]
    assert found[0]["detail"] == "expected a template, found none"


async def test_bad_uploads_and_strange_orders_are_refused(live: LiveService, connected: Connect) -> None:
    """No state, one spoiled bit, a core without models, too long; another device's order, one of nobody."""
    device, https = await connected()
    _, other_https = await connected()
    content = state(1)
    spoiled = content[:200] + bytes([content[200] ^ 1]) + content[201:]
    for wrong in (b"nothing", spoiled, content + b"\0"):
        body = LearnedUpload.model_construct(core=Core.M4_0, state=wrong)
        answer = await https.post("/learned", content=canonical_json(body))
        assert answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY
    answer = await https.post("/learned", json={"core": "a7", "state": ""})
    assert "expected a core that runs models" in answer.json()["detail"]
    too_long = await https.post("/learned", content=b" " * 5000)
    assert "expected at most 4096 bytes" in too_long.json()["detail"]
    order = (await live.operator.post(f"/devices/{device}/learned/m4-0/reset", json={"reason": "test"})).json()
    outcome = canonical_json(LearnedOutcome(order_id=order["id"], is_done=True))
    assert (await other_https.post("/learned/outcome", content=outcome)).status_code == httpx.codes.NOT_FOUND
    assert len((await orders_of(https)).orders) == 1
    assert (await live.operator.get("/learned-states")).json()["items"] == []


async def test_operators_learn_what_is_not_there(live: LiveService, connected: Connect) -> None:
    """No backup, no such device, one that is out of service; a viewer orders nothing."""
    device, https = await connected()
    retired, retired_https = await connected()
    await back_up(https, state(3))
    await back_up(retired_https, state(4))
    restore = f"/devices/{device}/learned/m4-1/restore"
    assert (await live.operator.get(f"/devices/{device}/learned/m4-0")).status_code == httpx.codes.NOT_FOUND
    assert (await live.operator.get(f"/devices/{device}/learned/a7")).status_code == httpx.codes.UNPROCESSABLE_ENTITY
    assert (await live.operator.post(restore, json={"to": UNKNOWN})).status_code == httpx.codes.NOT_FOUND
    await live.operator.post(f"/devices/{retired}/decommission", json={"reason": "broken"})
    gone = await live.operator.post(restore, json={"to": retired})
    assert gone.status_code == httpx.codes.CONFLICT
    assert "decommissioned" in gone.json()["detail"]
    back = await live.operator.post(f"/devices/{retired}/learned/m4-1/restore", json={"to": device})
    assert back.status_code == httpx.codes.ACCEPTED


async def test_backups_come_in_pages_and_not_too_often(live: LiveService, connected: Connect) -> None:
    """A page at a time by device and core; the thirteenth upload of an hour has to wait."""
    _, first = await connected()
    _, second = await connected()
    for https in (first, second):
        await back_up(https, state(9))
    page = (await live.operator.get("/learned-states", params={"limit": "1"})).json()
    rest = (await live.operator.get("/learned-states", params={"cursor": page["next_cursor"]})).json()
    assert (len(page["items"]), len(rest["items"]), rest["next_cursor"]) == (1, 1, None)
    assert page["items"][0]["device_id"] < rest["items"][0]["device_id"]
    statuses = [(await back_up(first, state(10 + turn))).status_code for turn in range(12)]
    assert statuses == [httpx.codes.NO_CONTENT] * 11 + [httpx.codes.TOO_MANY_REQUESTS]
