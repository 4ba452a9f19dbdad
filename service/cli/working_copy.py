"""The operator's working copy of the Image repository, in repository/ of the operator's folder.

    {n}.root.json, {n}.targets.json    metadata, every version that was verified here
    images/, golden/, releases/        targets, under their target names

What the service says is taken only if it leads from a root of this copy to targets that are not older than the last
ones verified here (pki/repository.py). A version that the copy knows must not change.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import TargetFile, Targets

from pki.files import PUBLIC_MODE, replace_file
from pki.repository import RepositoryInForce, UnverifiedRepository, verify_in_force, verify_root, verify_targets
from protocol.document import parse_document
from protocol.updates import MAX_RELEASE_BYTES, ReleaseDocument
from service.cli.client import ApiClient
from service.cli.errors import CliError, RefusedError

_VERSIONED = re.compile(r"([1-9]\d{0,8})\.(root|targets)\.json\Z")
_RELEASE_TARGET = re.compile(r"releases/\d+-(.+)\.json\Z")


class WorkingCopyError(CliError):
    """The working copy lacks a file, or the service contradicts it."""


class WorkingCopy:
    """Reads and extends one working copy.

    Args:
        operator_dir: the operator's folder.
    """

    def __init__(self, operator_dir: Path) -> None:
        self._folder = operator_dir / "repository"

    def fetch(self, client: ApiClient, *, now: datetime) -> RepositoryInForce:
        """Ask the service for the metadata in force, verify it, and keep it.

        Raises:
            PkiError: it does not lead from our root, is older than ours, or has expired.
            WorkingCopyError: the service has another content for a version that we know.
            CliError: the service does not answer.
        """
        trusted_version, trusted_root = self._latest("root")
        newer = list(_newer_roots(client, trusted_version))
        unverified = UnverifiedRepository(
            newer_roots=newer,
            timestamp=_file(client, "timestamp.json"),
            snapshot=_file(client, "snapshot.json"),
            targets=_file(client, "targets.json"),
        )
        known_version, known = self._latest("targets")
        verified = verify_in_force(unverified, trusted_root=trusted_root, now=now, minimum_version=known_version)
        if verified.targets.version == known_version and unverified.targets != known:
            raise WorkingCopyError(f"targets version {known_version}: expected the one that we know, found another")
        for version, content in enumerate(newer, start=trusted_version + 1):
            self._keep(f"{version}.root.json", content)
        self._keep(f"{verified.targets.version}.targets.json", unverified.targets)
        return verified

    def latest(self, *, now: datetime) -> RepositoryInForce:
        """Return the latest metadata that was verified here, without asking the service.

        Raises:
            PkiError: it does not lead from our root, or has expired.
            WorkingCopyError: there is none.
        """
        root = verify_root(self._latest("root")[1], now=now)
        version, content = self._latest("targets")
        return RepositoryInForce(root, verify_targets(content, root=root, now=now, version=version))

    def keep_targets_metadata(self, version: int, content: bytes) -> None:
        """Keep a new version of the targets metadata that the service has taken."""
        self._keep(f"{version}.targets.json", content)

    def keep(self, name: str, content: bytes) -> None:
        """Keep a target under its name."""
        self._keep(name, content)

    def read(self, target: TargetFile) -> bytes:
        """Return a target's content.

        Raises:
            WorkingCopyError: the file is missing or is not the one that the metadata names.
        """
        content = self.find(target.path)
        if content is None:
            raise WorkingCopyError(f"working copy: expected {self._folder / target.path}, found no such file")
        try:
            target.verify_length_and_hashes(content)
        except LengthOrHashMismatchError as error:
            raise WorkingCopyError(
                f"{self._folder / target.path}: expected the content that the metadata names, found another"
            ) from error
        return content

    def find(self, name: str) -> bytes | None:
        """Return a file of the working copy, unverified, or None if there is none."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def release(self, target: TargetFile) -> ReleaseDocument:
        """Return a release document.

        Raises:
            WorkingCopyError: the file is missing or another.
            DocumentError: it is malformed.
        """
        return parse_document(self.read(target), ReleaseDocument, max_bytes=MAX_RELEASE_BYTES)

    def _latest(self, role: str) -> tuple[int, bytes]:
        names = [path.name for path in self._folder.glob(f"*.{role}.json")]
        matches = [match for match in map(_VERSIONED.match, names) if match]
        if not matches:
            raise WorkingCopyError(f"working copy: expected a {role}.json in {self._folder}, made by `tinyfleet init`")
        version = max(int(match[1]) for match in matches)
        return version, (self._folder / f"{version}.{role}.json").read_bytes()

    def _keep(self, name: str, content: bytes) -> None:
        path = self._folder / name
        if self.find(name) != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content, mode=PUBLIC_MODE)


def find_release(targets: Targets, name: str) -> TargetFile | None:
    """Return the release document of a name, or None if no release has it."""
    named = (target for target in targets.targets.values() if _release_name(target.path) == name)
    return next(named, None)


def _release_name(target_name: str) -> str | None:
    match = _RELEASE_TARGET.match(target_name)
    return match[1] if match else None


def _newer_roots(client: ApiClient, version: int) -> Iterator[bytes]:
    while True:
        version += 1
        try:
            yield _file(client, f"{version}.root.json")
        except RefusedError as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            return


def _file(client: ApiClient, name: str) -> bytes:
    return client.get_bytes(f"/repository/image/{name}")
