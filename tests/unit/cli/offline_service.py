"""What the offline commands need of a service: the Image repository's files, artifacts and releases, in memory."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from pki.metadata import listed_file, sign_snapshot, sign_timestamp
from pki.online import online_keys
from pki.roles import OnlineKey
from service.cli import factory, metadata_files, releases
from service.cli.client import ApiClient
from service.cli.main import make_app
from tests.service_folder import Folders

DAY = timedelta(days=1)


def wall_clock() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the commands go by the machine's clock


@dataclass
class OfflineService:
    """Serves what it is given; takes releases unless it refuses everything."""

    folders: Folders
    expires: datetime = field(default_factory=lambda: wall_clock() + DAY)
    refuses: bool = False
    artifacts: dict[str, bytes] = field(default_factory=dict)
    releases: list[str] = field(default_factory=list)
    extra: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        genesis = self.folders.service / "genesis"
        self.version = 1
        self._signed: dict[tuple[bytes, int, datetime], dict[str, bytes]] = {}
        self.targets = (genesis / "image.targets.json").read_bytes()
        self.taken: dict[str, object] = {}

    @property
    def files(self) -> dict[str, bytes]:
        """The metadata in force, signed once."""
        state = (self.targets, self.version, self.expires)
        if state not in self._signed:
            self._signed[state] = self._sign()
        return self._signed[state] | self.extra

    def _sign(self) -> dict[str, bytes]:
        keys, version = online_keys(self.folders.service), self.version
        files = {"targets": listed_file(self.targets, version=version)}
        snapshot = sign_snapshot(files, keys.load(OnlineKey.SNAPSHOT), version=version, expires=self.expires)
        timestamp = sign_timestamp(
            snapshot, keys.load(OnlineKey.TIMESTAMP), snapshot_version=version, version=version, expires=self.expires
        )
        return {"targets.json": self.targets, "snapshot.json": snapshot, "timestamp.json": timestamp}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        _, _, path = request.url.path.partition("/api/v1/")
        kind, _, name = path.partition("/")
        if kind == "repository":
            content = self.files.get(name.removeprefix("image/"))
            return _problem(404, "not found") if content is None else httpx.Response(200, content=content)
        if kind == "artifacts":
            return self._artifact(request, name)
        if request.method == "GET":
            return httpx.Response(200, json={"items": [self._release(name) for name in self.releases]})
        return self._take(json.loads(request.content))

    def _artifact(self, request: httpx.Request, sha256: str) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(200 if sha256 in self.artifacts else 404)
        assert hashlib.sha256(request.content).hexdigest() == sha256
        self.artifacts[sha256] = request.content
        return httpx.Response(201)

    def _take(self, body: dict[str, Any]) -> httpx.Response:
        if self.refuses:
            return _problem(409, "another release came first")
        self.taken = body
        self.targets = base64.b64decode(body["metadata"]["targets"])
        self.version += 1
        self.releases.append(body["name"])
        return httpx.Response(201, json=self._release(body["name"]))

    def _release(self, name: str) -> dict[str, object]:
        images = [{"slot": "os", "sha256": "a" * 64}]
        return {"name": name, "counter": self.releases.index(name) + 1, "factory": False, "images": images}


def _problem(status: int, detail: str) -> httpx.Response:
    headers = {"Content-Type": "application/problem+json"}
    return httpx.Response(status, json={"title": "Refused", "status": status, "detail": detail}, headers=headers)


@dataclass
class Operator:
    """Runs commands of `tinyfleet` with the passphrase and a service."""

    folders: Folders
    service: OfflineService

    def run(self, *arguments: object, expect: int = 0, answer: str | None = None) -> Result:
        """Run a command; an expected error of ours counts as exit code 1."""
        folder = ("--operator-dir", self.folders.operator)
        return self.run_without_folder(*arguments, *folder, expect=expect, answer=answer)

    def run_without_folder(self, *arguments: object, expect: int = 0, answer: str | None = None) -> Result:
        """Run a command that needs no keys."""
        words = [str(argument) for argument in arguments]
        result = CliRunner().invoke(make_app(words), words, input=answer)
        assert result.exit_code == expect, (result.output, result.exception)
        return result

    def repository(self) -> dict[str, bytes]:
        """The working copy's files."""
        folder = self.folders.operator / "repository"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def refused(self, error: type[Exception], message: str, *arguments: object) -> None:
        """Run a command that must fail with our error and leave working copy and service as they are."""
        before, targets, artifacts = self.repository(), self.service.targets, dict(self.service.artifacts)
        result = self.run(*arguments, expect=1)
        assert isinstance(result.exception, error), result.exception
        with pytest.raises(error, match=message):
            raise result.exception
        assert (self.repository(), self.service.targets, self.service.artifacts) == (before, targets, artifacts)


def connect_to(service: OfflineService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the commands find this service instead of the credential's."""

    @contextmanager
    def connect(_operator_dir: Path) -> Iterator[ApiClient]:
        with httpx.Client(transport=httpx.MockTransport(service), base_url="https://service") as http:
            yield ApiClient(http)

    for module in (releases, factory, metadata_files):
        monkeypatch.setattr(module, "connect", connect)
