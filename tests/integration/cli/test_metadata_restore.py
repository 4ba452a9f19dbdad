"""The service comes back from a backup; the operator's working copy has what was signed since."""

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pki.errors import MetadataVersionError
from service.cli import clock
from service.cli.errors import RefusedError
from service.cli.working_copy import WorkingCopyError
from tests.integration.cli.people import Team, live_team
from tests.live_service import live_service


@asynccontextmanager
async def restarted(team: Team) -> AsyncIterator[Team]:
    """Start the service on what is in its folder now."""
    async with live_service(team.service.folders) as service:
        for person in (team.ada, team.ben, team.eve):
            file = person.folder / "credential.json"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"url": service.addresses.operator_url}))
        yield replace(team, service=service)


async def _sign_much(team: Team) -> None:
    """A team, a release, further root keys, hash bins, a renewal: each kind of publication."""
    key = await team.ada.key("second")
    await team.ada.does("release", "create", "first", await team.ada.package(), "--yes")
    for role in ("root", "director-root"):
        await team.ada.does("metadata", "keys", "add", role, "--key", key, "--yes")
    options = ("--core", "m4-1", "--kind", "model", "--key", key)
    await team.ada.does("metadata", "delegate", "vision", *options, "--yes")
    await team.ada.does("metadata", "bins", "--bits", 1, "--yes")
    second = await team.ada.package("next.img", version="1.2.0", counter=1)
    await team.ada.does("release", "create", "second", second, "--yes")
    await team.ada.does("metadata", "renew", "targets", "--yes")


@pytest.mark.parametrize("in_one_second", [False, True])
async def test_service_gets_back_what_was_signed_since_the_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_one_second: bool
) -> None:
    """Commands are locked out, status warns; after `metadata restore` all versions are as they were."""
    async with live_team(tmp_path, monkeypatch) as team:
        pass
    backup = shutil.copytree(team.service.folders.service, tmp_path / "backup")
    async with restarted(team) as team:
        with monkeypatch.context() as during:
            if in_one_second:
                moment = clock.now()
                during.setattr(clock, "now", lambda: moment)
            await _sign_much(team)
        before, files = await team.versions(), team.ada.repository()
    shutil.rmtree(team.service.folders.service)
    shutil.copytree(backup, team.service.folders.service)
    async with restarted(team) as team:
        assert isinstance(await team.ada.fails("metadata", "renew", "targets", "--yes"), MetadataVersionError)
        assert "`tinyfleet metadata restore`" in await team.ada.shown("metadata", "status")
        missing = team.ada.folder / "repository" / "3.targets.json"
        missing.rename(tmp_path / "3.targets.json")
        assert isinstance(await team.ada.fails("metadata", "restore"), WorkingCopyError)
        (tmp_path / "3.targets.json").rename(missing)
        assert "image targets 3" in await team.ada.does("metadata", "restore")
        assert _signed(await team.versions()) == _signed(before)
        assert [each["name"] for each in await team.ada.does("release", "list")] == ["second", "first"]
        assert team.ada.repository() == files
        assert await team.ada.does("metadata", "restore") == []
        await team.ada.does("metadata", "renew", "targets", "--yes")


async def test_other_metadata_than_ours_is_not_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody signed on the backup: the service refuses what would follow ours, and nothing changes."""
    async with live_team(tmp_path, monkeypatch) as team:
        pass
    backup = shutil.copytree(team.service.folders.service, tmp_path / "backup")
    async with restarted(team) as team:
        shutil.copytree(team.ada.folder / "keys", team.ben.folder / "keys")
        await team.ada.does("release", "create", "first", await team.ada.package(), "--yes")
        await team.ada.does("metadata", "renew", "targets", "--yes")
    shutil.rmtree(team.service.folders.service)
    shutil.copytree(backup, team.service.folders.service)
    async with restarted(team) as team:
        await team.ben.does("metadata", "renew", "targets", "--yes")
        before = await team.versions()
        assert isinstance(await team.ada.fails("metadata", "restore"), RefusedError)
        assert await team.versions() == before


def _signed(versions: dict[str, int]) -> dict[str, int]:
    return {
        role: version
        for role, version in versions.items()
        if role.split()[1] not in {"snapshot", "timestamp", "deltas"}
    }
