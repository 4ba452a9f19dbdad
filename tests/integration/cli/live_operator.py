"""The command line of an admin with the offline keys, against a running service."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from service.cli.main import make_app
from service.domain.device import DeviceState
from tests.attesting_device import AttestingDevice
from tests.live_service import LiveService, live_service
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tests.service_folder import ADMIN_TOKEN


@dataclass
class Operator:
    """The command line with an admin's login and the offline keys."""

    service: LiveService

    @property
    def folder(self) -> Path:
        return self.service.folders.operator

    async def run(self, *arguments: str) -> Result:
        command = [*arguments, "--operator-dir", str(self.folder), "--json"]
        return await asyncio.to_thread(lambda: CliRunner().invoke(make_app(command), command))

    async def succeed(self, *arguments: str) -> Any:
        result = await self.run(*arguments)
        assert result.exception is None, result.exception
        return json.loads(result.stdout)

    async def failure(self, *arguments: str) -> BaseException | None:
        return (await self.run(*arguments)).exception

    async def state_of(self, device: AttestingDevice) -> DeviceState:
        return DeviceState((await self.service.operator.get(f"/devices/{device.device_id}")).json()["state"])


@asynccontextmanager
async def live_operator(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    """Run a service, and give its first operator a login."""
    folders = make_quick_folders(folder)
    monkeypatch.setenv("TINYFLEET_PASSPHRASE", PASSPHRASE)
    async with live_service(folders) as service:
        login = {"url": service.addresses.operator_url, "ca": "certificates/root.pem", "token": ADMIN_TOKEN}
        file = folders.operator / "credential.json"
        file.touch(mode=0o600)
        file.write_text(json.dumps(login))
        yield Operator(service)
