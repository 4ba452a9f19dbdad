"""Several people sign update metadata together by passing a file; the service takes what enough have signed."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from pki.errors import (
    ProposalError,
    ProposalSignatureError,
    SignerRefusedError,
)
from pki.proposals import encode_proposal, read_proposal, write_proposal
from service.application import repository_status
from service.cli.errors import BadArgumentError, RefusedError
from service.cli.proposal_files import PublishedBeforeError
from service.cli.settling import SignaturesMissingError
from tests.integration.cli.people import Team, live_team

FILE = Path("release.proposal.json")


@pytest.fixture
async def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Team]:
    async with live_team(tmp_path, monkeypatch) as opened:
        yield opened


async def two_of_three(team: Team) -> None:
    """Targets are signed by two of Ada, Ben and Eve from now on."""
    ben, eve = await team.ben.key("ben"), await team.eve.key("eve")
    draft = await team.ada.does(
        "metadata", "keys", "add", "targets", "--key", ben, "--key", eve, "--threshold", 2, "--yes"
    )
    file = draft["proposal"]
    await team.ben.does("metadata", "sign", file, "--yes")
    await team.ada.does("metadata", "publish", file)


async def test_release_waits_for_the_second_signature(team: Team) -> None:
    """Ada proposes, Eve reviews and signs, Ben publishes; before, nobody can."""
    await two_of_three(team)
    package = await team.ada.package()
    answer = await team.ada.does("release", "create", "main", package, "--yes", "--propose", FILE)
    assert (answer["complete"], answer["missing"][0]["missing"]) == (False, 1)
    assert isinstance(await team.ben.fails("release", "publish", FILE), SignaturesMissingError)
    shown = await team.eve.shown("metadata", "show", FILE)
    assert "releases/1-main.json" in shown
    assert "targets: 1 of" in shown
    signed = await team.eve.does("release", "sign", FILE, "--key", "eve", "--yes")
    assert signed["complete"]
    assert (await team.ben.does("release", "publish", FILE))["name"] == "main"
    assert [each["name"] for each in await team.ada.does("release", "list")] == ["main"]
    assert isinstance(await team.ada.fails("release", "publish", FILE), PublishedBeforeError)


async def test_service_itself_counts_signatures(team: Team) -> None:
    """Whoever sends metadata around the commands is refused there."""
    await two_of_three(team)
    before = await team.versions()
    package = await team.ada.package()
    await team.ada.does("release", "create", "main", package, "--yes", "--propose", FILE)
    proposal = read_proposal(FILE)
    body = {
        "name": "main",
        "metadata": {role: b64encode(content).decode() for role, content in proposal.metadata.items()},
        "release_target": proposal.release and proposal.release.target,
    }
    answer = await team.service.operator.post("/releases", json=body, headers={"Idempotency-Key": "a" * 36})
    assert (answer.status_code, "signatures by 2 of its keys" in answer.json()["detail"]) == (403, True), answer.text
    assert await team.versions() == before


async def test_removed_key_signs_no_more(team: Team) -> None:
    """Eve leaves; what she signs afterwards counts for nobody, and her old signature in a file is refused."""
    await two_of_three(team)
    package = await team.ada.package()
    await team.ada.does("release", "create", "main", package, "--yes", "--propose", FILE)
    await team.eve.does("release", "sign", FILE, "--yes")
    await team.ada.does("metadata", "keys", "remove", "targets", "--key", "eve/keys/eve.pub", "--yes")
    assert isinstance(await team.ben.fails("release", "publish", FILE), ProposalSignatureError)
    await team.ada.does("release", "create", "main", package, "--yes", "--propose", FILE)
    assert isinstance(await team.eve.fails("release", "sign", FILE, "--key", "eve", "--yes"), SignerRefusedError)
    await team.ben.does("release", "sign", FILE, "--yes")
    assert (await team.ben.does("release", "publish", FILE))["name"] == "main"


async def test_root_is_rotated_from_one_to_two_of_three(team: Team) -> None:
    """The old key and two of the new ones sign; what follows needs two of the new ones."""
    ada, ben, eve = await team.ada.key("ada"), await team.ben.key("ben"), await team.eve.key("eve")
    answer = await team.ada.does(
        "metadata", "keys", "rotate", "root", "--key", ada, "--key", ben, "--key", eve, "--threshold", 2, "--yes"
    )
    await team.eve.does("metadata", "sign", answer["proposal"], "--yes")
    await team.eve.does("metadata", "publish", answer["proposal"])
    assert (await team.versions())["image root"] == 2
    package = await team.ada.package()
    assert (await team.ada.does("release", "create", "main", package, "--yes"))["name"] == "main"
    assert "2.root.json" in team.ada.repository()
    renewal = await team.ben.does("metadata", "renew", "root", "--yes")
    await team.ada.does("metadata", "sign", renewal["proposal"], "--yes")
    await team.ada.does("metadata", "publish", renewal["proposal"])
    assert (await team.versions())["image root"] == 3
    await team.eve.does("metadata", "status")
    assert {"2.root.json", "3.root.json"} <= set(team.eve.repository())


async def test_roots_of_the_director_follow_one_another(team: Team) -> None:
    """A renewal, then another key; the folder keeps each, and hands out the newest."""
    await team.ada.does("metadata", "renew", "director-root", "--yes")
    key = await team.ada.key("root-2")
    await team.ada.does("metadata", "keys", "rotate", "director-root", "--key", key, "--yes")
    assert (await team.versions())["director root"] == 3
    assert {"director.2.root.json", "director.3.root.json"} <= set(team.ada.repository())


async def test_edited_files_are_refused(team: Team) -> None:
    """Truncated, exchanged, signed by a stranger under the name of somebody who counts."""
    await two_of_three(team)
    package = await team.ada.package()
    await team.ada.does("release", "create", "main", package, "--yes", "--propose", FILE)
    good = read_proposal(FILE)
    await asyncio.to_thread(FILE.write_bytes, encode_proposal(good)[:-100])
    assert isinstance(await team.ben.fails("release", "sign", FILE, "--yes"), ProposalError)
    changed = good.metadata["targets"].replace(b"releases/1-main", b"releases/1-evil")
    write_proposal(FILE, good.model_copy(update={"metadata": {"targets": changed}}))
    assert isinstance(await team.ben.fails("release", "sign", FILE, "--yes"), ProposalSignatureError)
    write_proposal(FILE, good)
    await team.ben.does("release", "sign", FILE, "--yes")
    assert (await team.ben.does("release", "publish", FILE))["name"] == "main"


async def test_interrupted_publication_is_told(team: Team) -> None:
    """The service had taken it; the command says so instead of making a second version."""
    await two_of_three(team)
    renewal = await team.ada.does("metadata", "renew", "targets", "--yes", "--propose", "renewal.json")
    await team.ben.does("metadata", "sign", renewal["proposal"], "--yes")
    before = (await team.versions())["image targets"]
    await team.ben.does("metadata", "publish", "renewal.json")
    error = await team.eve.fails("metadata", "publish", "renewal.json")
    assert isinstance(error, PublishedBeforeError)
    assert (await team.versions())["image targets"] == before + 1


async def test_threshold_that_keys_cannot_meet_is_refused(team: Team) -> None:
    """Nobody could ever sign again."""
    error = await team.ada.fails("metadata", "keys", "remove", "targets", "--key", "image-targets", "--yes")
    assert isinstance(error, BadArgumentError)
    assert "expected 1 to 0, its keys, found 1" in str(error)
    assert (await team.versions())["image root"] == 1


async def test_strange_online_key_is_refused(team: Team) -> None:
    """The service holds no such key, so it could sign nothing by it."""
    key = await team.ada.key("ada")
    error = await team.ada.fails("metadata", "keys", "rotate", "timestamp", "--key", key, "--yes")
    assert isinstance(error, RefusedError)
    assert (await team.versions())["image root"] == 1


async def test_status_says_which_keys_are_ones_own(team: Team) -> None:
    """For people and programs."""
    roles = {f"{each['repository']} {each['role']}": each for each in await team.ada.does("metadata", "status")}
    assert roles["image targets"]["own_keys"] == ["image-targets"]
    assert roles["image root"]["own_keys"] == roles["director root"]["own_keys"] == ["root"]
    assert roles["image timestamp"]["own_keys"] == []
    assert "targets" in await team.ben.shown("metadata", "status")


async def test_status_says_what_ends_soon(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what people sign; the service renews its own."""
    assert "sign the next version" not in await team.ada.shown("metadata", "status")
    monkeypatch.setattr(repository_status, "WARNING_BEFORE", timedelta(days=400))
    shown = await team.ada.shown("metadata", "status")
    for role in ("image root", "image targets", "director root"):
        assert re.search(rf"{role}: expires in \d+ days: sign the next version", shown)
    assert "image timestamp: expires" not in shown
