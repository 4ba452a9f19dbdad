"""Roles and roots over real HTTPS: an operator publishes and looks, a device fetches a team's file."""

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Root

from pki.metadata import add_signature
from protocol.signing import SoftwareSigner
from service.adapters.database.engine import Database, database_url
from tests.integration.service_updates.role_world import People, Team, keys_of
from tests.integration.service_updates.update_world import UpdateWorld
from tests.live_service import LiveService, live_service
from tests.service_folder import make_folders


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[LiveService]:
    async with live_service(make_folders(tmp_path)) as service:
        yield service


@asynccontextmanager
async def people_of(live: LiveService) -> AsyncIterator[People]:
    """The people's signing tools beside the running service."""
    database = Database(database_url(live.settings.database_location()))
    try:
        yield People(UpdateWorld(live.folders, database))
    finally:
        await database.close()


def encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    return {role: base64.b64encode(content).decode() for role, content in files.items()}


async def publish(live: LiveService, files: Mapping[str, bytes]) -> Any:
    answer = await live.operator.post("/repository/image/targets", json={"metadata": encoded(files)})
    assert answer.status_code == 200, answer.text
    return answer.json()["versions"]


async def test_team_publishes_and_a_device_fetches_its_file(live: LiveService) -> None:
    """Each file under its plain and its versioned name, for operators and for devices."""
    async with people_of(live) as people:
        roles = people.roles
        files = await roles.delegate(Team("vision"), bins=roles.bins(bits=3))
        assert (await publish(live, files))["vision"] == 1
        content = (await roles.in_force()).delegated
        target = await roles.application("app@1.0.0")
        vision = await roles.add(target)
        assert await publish(live, vision) == {"vision": 2}
    assert set(content) == {"vision", "deltas", "bins", *(f"bin-{number}" for number in range(8))}
    device = await live.claimed()
    async with live.https(device, await live.attest(device)) as https:
        for name in ("vision.json", "2.vision.json"):
            assert (await https.get(f"/uptane/image/{name}")).content == vision["vision"]
            assert (await live.operator.get(f"/repository/image/{name}")).content == vision["vision"]
        assert (await https.get("/uptane/image/1.bin-7.json")).status_code == 200
        for missing in ("3.vision.json", "bin-8.json", "audio.json", "..%2Fvision.json"):
            assert (await https.get(f"/uptane/image/{missing}")).status_code == 404
        assert (await https.get("/uptane/director/vision.json")).status_code == 404


async def test_operator_sees_how_roles_stand(live: LiveService) -> None:
    """Versions, thresholds, ends; bins as one."""
    async with people_of(live) as people:
        await publish(live, await people.roles.delegate(Team("vision"), bins=people.roles.bins(bits=3)))
    shown = (await live.operator.get("/repository")).json()
    found = {(each["repository"], each["role"]): each for each in shown}
    assert found["image", "bin"]["files"] == 8
    assert (found["image", "vision"]["threshold"], found["image", "vision"]["signed_by"]) == (1, 1)
    assert found["director", "root"]["version"] == 1
    assert found["image", "targets"]["warnings"] == []


async def test_roots_come_into_force_over_https(live: LiveService) -> None:
    """By an administrator; every version of both stays there to be followed."""
    async with people_of(live) as people:
        new = SoftwareSigner.generate()
        unsigned = await people.next({Root.type: keys_of(new)})
        root = add_signature(add_signature(unsigned, people.root[0]), new)
    alone = base64.b64encode(add_signature(unsigned, new)).decode()
    refused = await live.operator.post("/repository/image/root", json={"metadata": alone})
    assert (refused.status_code, "expected signatures by 1" in refused.json()["detail"]) == (403, True)
    accepted = await live.operator.post("/repository/image/root", json={"metadata": base64.b64encode(root).decode()})
    assert (accepted.status_code, accepted.json()) == (200, {"version": 2})
    for name in ("image/2.root.json", "image/1.root.json", "director/1.root.json", "director/root.json"):
        assert (await live.operator.get(f"/repository/{name}")).status_code == 200
    assert (await live.operator.get("/repository/image/2.root.json")).content == root
    for name in ("image/3.root.json", "director/2.root.json", "director/targets.json"):
        assert (await live.operator.get(f"/repository/{name}")).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("image/targets", {"metadata": {}}, 422),
        ("image/targets", {"metadata": {"Vision": "e30="}}, 422),
        ("image/targets", {"metadata": {"vision": "n"}}, 422),
        ("image/targets", {"metadata": {"vision": "e30="}}, 403),
        ("image/targets", {"metadata": {"deltas": "e30="}}, 403),
        ("image/targets", {"metadata": {"targets": "e30="}}, 422),
        ("image/root", {"metadata": "e30="}, 422),
        ("image/root", {"metadata": "e30=", "roles": {"vision": "x"}}, 422),
        ("other/root", {"metadata": "e30="}, 422),
    ],
)
async def test_wrong_publications_are_named(live: LiveService, path: str, body: object, status: int) -> None:
    """4xx with a problem, never a 500."""
    answer = await live.operator.post(f"/repository/{path}", json=body)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


async def test_only_an_administrator_changes_roots(live: LiveService) -> None:
    """A releaser publishes targets and no roots; a viewer looks."""
    body = {"metadata": "e30="}
    for token, path, status in (
        ("releaser-token", "image/root", 403),
        ("viewer-token", "image/targets", 403),
        ("viewer-token", "director/root", 403),
    ):
        answer = await live.operator.post(
            f"/repository/{path}", json=body, headers={"Authorization": f"Bearer {token}"}
        )
        assert answer.status_code == status
    shown = await live.operator.get("/repository", headers={"Authorization": "Bearer viewer-token"})
    assert shown.status_code == 200


async def test_publication_as_large_as_a_proposal_is_read_from_those_who_may_publish(live: LiveService) -> None:
    """Every hash bin at once is more than any package; nobody else's body is read at all."""
    large = {"metadata": encoded({"vision": bytes(9 * 2**20), "audio": bytes(9 * 2**20)})}
    paths = {
        "/repository/image/targets": large,
        "/repository/image/root": {"metadata": encoded({"root": b"{}"})["root"], "roles": large["metadata"]},
        "/releases": large | {"name": "main", "release_target": "releases/1-main.json"},
    }
    for path, body in paths.items():
        answer = await live.operator.post(path, json=body)
        assert answer.status_code in {400, 403, 422}, answer.text
        assert "expected" in answer.json()["detail"]
        nobody = await live.operator.post(path, content=b"{", headers={"Authorization": "Bearer nobody"})
        assert nobody.status_code == 401
        assert (await live.operator.post(path, content=bytes(65 * 2**20))).status_code == 413
