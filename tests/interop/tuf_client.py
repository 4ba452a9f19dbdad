"""The device's TUF client behind the command line of tuf-conformance 2.4 (its CLIENT-CLI.md).

    tuf_client --metadata-dir D init ROOT
    tuf_client --metadata-dir D --metadata-url U refresh
    tuf_client --metadata-dir D --metadata-url U --target-name T --target-base-url B --target-dir D download

`Repository` and `MetadataStore` are the device's own. What differs from a device: metadata lies in a folder of
unversioned files instead of secure storage, HTTP is plain, time is the machine's (the suite moves it by faketime), and
targets are fetched by name, because a device fetches them by content.
"""

import argparse
import http.client
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile, Targets
from typing_extensions import override

from device_sim.errors import DeviceSimError
from device_sim.network.ports import EndlessDataError, HttpResponse, HttpTransport, UnreachableError
from device_sim.update.repository import MetadataFetcher, MetadataStore, Repository, Storage

ANCHOR = ".anchor"  # the initial root, as a voucher brings it
TIMEOUT_SECONDS = 10
OK = 200


class FolderStorage(Storage):
    """Secure storage as a folder of `{role}.json` files, which the suite reads and changes."""

    def __init__(self, folder: Path, anchor_digest: str) -> None:
        self._folder = folder
        self._anchor_digest = anchor_digest

    @override
    def get(self, name: str) -> bytes | None:
        files = {unquote(path.stem): path.read_text() for path in self._folder.glob("*.json")}
        return json.dumps({"anchor": self._anchor_digest, "files": files}).encode()

    @override
    def put(self, name: str, value: bytes) -> None:
        for role, text in json.loads(value)["files"].items():
            (self._folder / f"{quote(role, safe='')}.json").write_text(text)


class PlainTransport(HttpTransport):
    """HTTP without TLS, one connection per request."""

    @override
    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        url = urlsplit(path)
        connection = http.client.HTTPConnection(url.netloc, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, url.path, body, dict(headers or {}))
            response = connection.getresponse()
            content = response.read(max_bytes + 1)
        except OSError as error:
            raise UnreachableError(f"{path}: {error}") from error
        finally:
            connection.close()
        if len(content) > max_bytes:
            raise EndlessDataError(f"{path}: expected at most {max_bytes} bytes, found more")
        return HttpResponse(response.status, dict(response.headers), content)

    @override
    def close(self) -> None:
        """Nothing stays open."""


def init(arguments: argparse.Namespace) -> None:
    """Take the initial root."""
    root = Path(arguments.trusted_root).read_bytes()
    for name in (ANCHOR, "root.json"):
        (arguments.metadata_dir / name).write_bytes(root)


def refresh(arguments: argparse.Namespace) -> None:
    """Check the repository once."""
    _repository(arguments).check(_accept_any)


def download(arguments: argparse.Namespace) -> None:
    """Check the repository, then fetch targets unless they are there."""
    repository = _repository(arguments)
    targets_in_force = repository.check(_accept_any)
    del targets_in_force
    for name in arguments.target_name:
        target = repository.find(name)
        if target is None:
            raise SystemExit(f"{name}: expected a target of the repository, found none")
        _fetch(target, arguments.target_base_url, arguments.target_dir / quote(name, safe=""))


def _repository(arguments: argparse.Namespace) -> Repository:
    anchor = (arguments.metadata_dir / ANCHOR).read_bytes()
    digest = MetadataStore(_Nothing(), "", anchor=anchor)._anchor_digest
    store = MetadataStore(FolderStorage(arguments.metadata_dir, digest), "conformance", anchor=anchor)
    fetcher = MetadataFetcher(PlainTransport())
    now = datetime.now(UTC)  # noqa: TID251 - faketime moves the machine's clock
    return Repository(store, arguments.metadata_url, fetcher=fetcher, now=now)


def _fetch(target: TargetFile, base_url: str, path: Path) -> None:
    if path.exists() and _is_intact(target, path.read_bytes()):
        return
    folder, _, name = target.path.rpartition("/")
    hashed = f"{next(iter(target.hashes.values()))}.{name}"
    url = f"{base_url.rstrip('/')}/{quote(f'{folder}/{hashed}' if folder else hashed)}"
    response = PlainTransport().request("GET", url, max_bytes=target.length)
    if response.status != OK:
        raise UnreachableError(f"{url}: expected 200, found {response.status}")
    target.verify_length_and_hashes(response.body)
    path.write_bytes(response.body)


def _is_intact(target: TargetFile, content: bytes) -> bool:
    try:
        target.verify_length_and_hashes(content)
    except LengthOrHashMismatchError:
        return False
    return True


class _Nothing(Storage):
    @override
    def get(self, name: str) -> bytes | None:
        return None

    @override
    def put(self, name: str, value: bytes) -> None:
        """Nothing is kept."""


def _accept_any(_targets: Targets) -> None:
    """Every well-signed set is ours."""


def main() -> int:
    """Run one command; 0 if all of it was done, else 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", type=Path, required=True)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append")
    parser.add_argument("--target-base-url")
    parser.add_argument("--target-dir", type=Path)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("init").add_argument("trusted_root")
    commands.add_parser("refresh")
    commands.add_parser("download")
    arguments = parser.parse_args()
    try:
        {"init": init, "refresh": refresh, "download": download}[arguments.command](arguments)
    except (DeviceSimError, LengthOrHashMismatchError, OSError, ValueError) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
