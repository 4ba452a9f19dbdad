"""Several people with folders, keys and logins of their own, against one running service."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pki import pkcs8
from service.cli.main import make_app
from tests.live_service import LiveService, live_service
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tests.service_folder import ADMIN_TOKEN

COMPONENT = "b7a1f569-9587-43f0-ac75-7edf5b558dec"


@dataclass
class Person:
    """Runs commands in a folder of one's own."""

    folder: Path
    home: Path

    async def run(self, *arguments: object) -> Result:
        return await self._invoke(*arguments, "--operator-dir", self.folder)

    async def run_alone(self, *arguments: object) -> Result:
        """Run a command that needs no operator's folder."""
        return await self._invoke(*arguments, "--json")

    async def _invoke(self, *arguments: object) -> Result:
        command = [*map(str, arguments)]
        return await asyncio.to_thread(lambda: CliRunner().invoke(make_app(command), command))

    async def does(self, *arguments: object) -> Any:
        """Run a command that succeeds; returns its JSON."""
        result = await self.run(*arguments, "--json")
        assert result.exception is None, (result.stderr, result.exception)
        return json.loads(result.stdout)

    async def shown(self, *arguments: object) -> str:
        """Run a command that succeeds; returns what people read."""
        result = await self.run(*arguments)
        assert result.exception is None, (result.stderr, result.exception)
        return " ".join((result.stdout + result.stderr).split())

    async def fails(self, *arguments: object) -> BaseException:
        result = await self.run(*arguments, "--json")
        assert result.exception is not None, result.stdout
        return result.exception

    async def key(self, name: str) -> Path:
        """Make a key; returns the file of its public half."""
        return Path((await self.does("metadata", "key", "create", name))["public_key"])

    async def package(self, name: str = "app.img", *, version: str = "1.1.0", counter: int = 1) -> Path:
        """Pack an application of the A7."""
        payload, path = self.home / "payload.bin", self.home / name
        payload.write_bytes(bytes(range(250)) * 4)
        labels = ("--name", "telemetry-app", "--version", version, "--component-id", COMPONENT)
        await self.does(
            "image", "create", payload, *labels, "--core", "a7", "--security-version", counter, "--out", path
        )
        return path

    def repository(self) -> dict[str, bytes]:
        """The working copy's files."""
        folder = self.folder / "repository"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Team:
    """The service and those who run it; the first has the ceremony's keys."""

    service: LiveService
    ada: Person
    ben: Person
    eve: Person

    async def versions(self) -> dict[str, int]:
        """What is in force, as the service says."""
        answer = await self.service.operator.get("/repository")
        answer.raise_for_status()
        return {f"{role['repository']} {role['role']}": role["version"] for role in answer.json()}


@asynccontextmanager
async def live_team(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Team]:
    """Run a service, and give three people folders with logins."""
    monkeypatch.setenv("TINYFLEET_PASSPHRASE", PASSPHRASE)
    monkeypatch.setattr(pkcs8, "SCRYPT_N", 2)
    monkeypatch.chdir(folder)
    folders = make_quick_folders(folder / "data")
    async with live_service(folders) as service:
        login = {"url": service.addresses.operator_url, "ca": "certificates/root.pem", "token": ADMIN_TOKEN}
        people = [folders.operator, folder / "ben", folder / "eve"]
        for other in people[1:]:
            for part in ("repository", "certificates"):
                shutil.copytree(folders.operator / part, other / part)
        for each in people:
            file = each / "credential.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps(login))
        yield Team(service, *(Person(each, folder) for each in people))
