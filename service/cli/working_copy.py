"""The operator's working copy of both repositories, in repository/ of the operator's folder.

    {n}.root.json, {n}.targets.json    metadata of the Image repository, every version that was verified here
    {n}.{role}.json                    of delegated roles and hash bins, as far as they were needed
    director.root.json                 the Director's first root, from the ceremony
    director.{n}.root.json             its later roots
    images/, golden/, releases/, …     targets, under their target names

What the service says is taken only if it leads from a root of this copy, root by root, to roles that are not older than
the last ones verified here (pki/repository.py). A version that the copy knows must not change. Patches (`deltas`) are
the service's own and are not kept; of hash bins, those are fetched that are asked for.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization import DeserializationError

from pki.errors import MetadataExpiredError, RepositoryError
from pki.files import PUBLIC_MODE, replace_file
from pki.metadata import BIN_PREFIX, BINS_ROLE, DELTAS_ROLE
from pki.repository import (
    RepositoryInForce,
    UnverifiedRepository,
    delegated_roles,
    first_role,
    hash_bins,
    verify_delegated,
    verify_in_force,
    verify_root,
    verify_targets,
)
from protocol.document import parse_document
from protocol.updates import MAX_RELEASE_BYTES, ReleaseDocument
from service.cli.client import ApiClient
from service.cli.errors import CliError, RefusedError

IMAGE = "image"
DIRECTOR = "director"
_VERSIONED = re.compile(r"([1-9]\d{0,8})\.([a-z0-9][a-z0-9-]{0,31})\.json\Z")
_DIRECTOR_ROOT = re.compile(r"director\.([1-9]\d{0,8})\.root\.json\Z")
_FIRST_DIRECTOR_ROOT = "director.root.json"
_MOMENT = timedelta(seconds=1)
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

    def fetch(
        self,
        client: ApiClient,
        *,
        now: datetime,
        names: Collection[str] = (),
        roles: Collection[str] = (),
        everything: bool = False,
        expired: bool = False,
    ) -> RepositoryInForce:
        """Ask the service for the metadata in force, verify it, and keep it.

        Args:
            client: of the service.
            now: UTC, aware.
            names: of targets whose roles are needed.
            roles: delegated roles and hash bins that are needed.
            everything: every role is needed.
            expired: take what people have signed even where it has expired, because it is to be signed again; what the
                service signs must be fresh.

        Raises:
            PkiError: it does not lead from our root, is older than ours, or has expired.
            WorkingCopyError: the service has another content for a version that we know.
            CliError: the service does not answer.
        """
        known = self._known()
        trusted_root = self._newest(known, Root.type)
        newer = list(_newer_roots(client, IMAGE, known[Root.type]))
        top = UnverifiedRepository(
            newer_roots=newer,
            timestamp=_file(client, "timestamp.json"),
            snapshot=_file(client, "snapshot.json"),
            targets=_file(client, "targets.json"),
        )
        minimum = {role: version for role, version in known.items() if role != Root.type}
        verify = partial(verify_in_force, trusted_root=trusted_root, minimum_versions=minimum)
        in_force = verify(top, now=_moment(top, newer[-1] if newer else trusted_root, now) if expired else now)
        for wanted in (_roles_wanted, _bins_wanted):
            further = wanted(in_force, names=names, roles=roles, everything=everything)
            top = replace(
                top, delegated={**top.delegated, **{role: _role_file(client, in_force, role) for role in further}}
            )
            in_force = verify(top, now=_moment(top, newer[-1] if newer else trusted_root, now) if expired else now)
        self._keep_verified(in_force, top, first_new_root=known[Root.type] + 1)
        return in_force

    def fetch_director_root(self, client: ApiClient, *, now: datetime, expired: bool = False) -> Root:
        """Follow the Director's roots from the newest of this copy, and keep them.

        Args:
            client: of the service.
            now: UTC, aware.
            expired: take the last even if it has expired, because it is to be signed again.

        Raises:
            PkiError: one does not follow from ours, or the last has expired.
            CliError: the service does not answer.
        """
        version, trusted = self._director_root()
        newer = list(_newer_roots(client, DIRECTOR, version))
        last = _expires(newer[-1] if newer else trusted, Root.type)
        root = verify_root(trusted, newer=newer, now=min(now, last - _MOMENT) if expired else now)
        for number, content in enumerate(newer, start=version + 1):
            self._keep(f"director.{number}.root.json", content)
        return root

    def newest_roots(self) -> tuple[bytes, bytes]:
        """Return the newest roots that were verified here: the Director's, the Image repository's.

        Raises:
            WorkingCopyError: there is none.
        """
        return self._director_root()[1], self._newest(self._known(), Root.type)

    def known_versions(self) -> tuple[int, dict[str, int]]:
        """Return the newest versions that are here: of the Director's root, and of the Image repository by role.

        Raises:
            WorkingCopyError: there is no root.
        """
        return self._director_root()[0], self._known()

    def known_director_root(self) -> Root:
        """Return the newest root of the Director that was verified here, even if it has expired.

        Raises:
            PkiError: it is damaged.
            WorkingCopyError: there is none.
        """
        content = self._director_root()[1]
        return verify_root(content, now=_expires(content, Root.type) - _MOMENT)

    def latest(self, *, now: datetime, expired: bool = False) -> RepositoryInForce:
        """Return the latest metadata that was verified here, without asking the service.

        Args:
            now: UTC, aware.
            expired: take it even where it has expired, because it is to be signed again.

        Raises:
            PkiError: it does not lead from our root, or has expired.
            WorkingCopyError: there is none.
        """
        known = self._known()

        def moment(content: bytes, role: str) -> datetime:
            return min(now, _expires(content, role) - _MOMENT) if expired else now

        content = self._newest(known, Root.type)
        root = verify_root(content, now=moment(content, Root.type))
        content = self._newest(known, Targets.type)
        judged, version = moment(content, Targets.type), known[Targets.type]
        in_force = RepositoryInForce(root, verify_targets(content, root=root, now=judged, version=version), {}, known)
        for role in sorted(known, key=lambda role: role != BINS_ROLE):
            if role in {Root.type, Targets.type} or not _is_delegated(in_force, role):
                continue
            content = self._newest(known, role)
            delegator, judged = in_force.delegator_of(role), moment(content, role)
            verified = verify_delegated(content, delegator=delegator, role=role, now=judged)
            in_force = replace(in_force, delegated={**in_force.delegated, role: verified})
        return in_force

    def keep_metadata(
        self, files: Mapping[str, bytes], *, versions: Mapping[str, int], repository: str = IMAGE
    ) -> None:
        """Keep new versions of roles that the service has taken.

        Args:
            files: by role.
            versions: of each.
            repository: whose.
        """
        for role, content in files.items():
            self._keep(_file_name(role, versions[role], repository), content)

    def find_metadata(self, role: str, *, version: int, repository: str = IMAGE) -> bytes | None:
        """Return a version of a role that was verified here, or None if it was not."""
        return self.find(_file_name(role, version, repository))

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
        _check(target, content, where=self._folder / target.path)
        return content

    def read_listed(self, in_force: RepositoryInForce, name: str) -> bytes:
        """Return the content of a target by its name.

        Raises:
            WorkingCopyError: nothing of this name is in force, or its file is missing or another.
        """
        target = in_force.find(name)
        if target is None:
            raise WorkingCopyError(f"target {name}: expected it in force, found nothing")
        return self.read(target)

    def fetch_target(self, client: ApiClient, target: TargetFile) -> bytes:
        """Return a target's content, from the service where this copy has none yet, and keep it.

        Raises:
            WorkingCopyError: the content is not the one that the metadata names.
            CliError: the service does not answer.
        """
        if self.find(target.path) is None:
            content = client.get_bytes(f"/artifacts/{target.hashes['sha256']}")
            _check(target, content, where=target.path)
            self._keep(target.path, content)
        return self.read(target)

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

    def fetch_release(self, client: ApiClient, target: TargetFile) -> ReleaseDocument:
        """Return a release document, from the service where this copy has none yet.

        Raises:
            WorkingCopyError: the content is not the one that the metadata names.
            DocumentError: it is malformed.
            CliError: the service does not answer.
        """
        self.fetch_target(client, target)
        return self.release(target)

    def _known(self) -> dict[str, int]:
        """Return the newest version of each role of the Image repository that is here."""
        names = [path.name for path in self._folder.glob("*.json")]
        known: dict[str, int] = {}
        for match in filter(None, map(_VERSIONED.match, names)):
            known[match[2]] = max(known.get(match[2], 0), int(match[1]))
        if Root.type not in known:
            raise WorkingCopyError(f"working copy: expected a root.json in {self._folder}, made by `tinyfleet init`")
        return known

    def _newest(self, known: Mapping[str, int], role: str) -> bytes:
        if role not in known:
            raise WorkingCopyError(f"working copy: expected a {role}.json in {self._folder}, found none")
        return (self._folder / f"{known[role]}.{role}.json").read_bytes()

    def _director_root(self) -> tuple[int, bytes]:
        names = [path.name for path in self._folder.glob("director.*.root.json")]
        newest = max((int(match[1]) for match in map(_DIRECTOR_ROOT.match, names) if match), default=1)
        name = _FIRST_DIRECTOR_ROOT if newest == 1 else f"director.{newest}.root.json"
        content = self.find(name)
        if content is None:
            raise WorkingCopyError(f"working copy: expected {self._folder / name}, made by `tinyfleet init`")
        return newest, content

    def _keep_verified(
        self, in_force: RepositoryInForce, unverified: UnverifiedRepository, *, first_new_root: int
    ) -> None:
        files = {Targets.type: unverified.targets, **unverified.delegated}
        named = {f"{in_force.metadata_of(role).version}.{role}.json": content for role, content in files.items()}
        for name, content in named.items():
            if self.find(name) not in (None, content):
                version, role, _ = name.split(".")
                raise WorkingCopyError(f"{role} version {version}: expected the one that we know, found another")
        roots = enumerate(unverified.newer_roots, start=first_new_root)
        for name, content in {**{f"{version}.root.json": root for version, root in roots}, **named}.items():
            self._keep(name, content)

    def _keep(self, name: str, content: bytes) -> None:
        path = self._folder / name
        if self.find(name) != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content, mode=PUBLIC_MODE)


def find_release(targets: Targets, name: str) -> TargetFile | None:
    """Return the release document of a name, or None if no release has it."""
    named = (target for target in targets.targets.values() if _release_name(target.path) == name)
    return next(named, None)


def release_targets(targets: Targets) -> list[TargetFile]:
    """Return the release documents that are listed, newest first."""
    listed = [target for target in targets.targets.values() if _release_name(target.path) is not None]
    return sorted(listed, key=_counter, reverse=True)


def _file_name(role: str, version: int, repository: str) -> str:
    return f"{version}.{role}.json" if repository == IMAGE else f"{repository}.{version}.{role}.json"


def _counter(target: TargetFile) -> int:
    return int(target.path.removeprefix("releases/").partition("-")[0])


def _release_name(target_name: str) -> str | None:
    match = _RELEASE_TARGET.match(target_name)
    return match[1] if match else None


def _newer_roots(client: ApiClient, repository: str, version: int) -> Iterator[bytes]:
    while True:
        version += 1
        try:
            yield _file(client, f"{version}.root.json", repository=repository)
        except RefusedError as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            return


def _roles_wanted(
    in_force: RepositoryInForce, *, names: Collection[str], roles: Collection[str], everything: bool
) -> list[str]:
    delegated = [role for role in delegated_roles(in_force.targets) if role != DELTAS_ROLE]
    asked = {first_role(in_force.targets, name) for name in names} | set(roles)
    if any(role.startswith(f"{BIN_PREFIX}-") for role in roles):
        asked.add(BINS_ROLE)
    return [role for role in delegated if everything or role in asked]


def _bins_wanted(
    in_force: RepositoryInForce, *, names: Collection[str], roles: Collection[str], everything: bool
) -> list[str]:
    bins = hash_bins(in_force.delegated[BINS_ROLE]) if BINS_ROLE in in_force.delegated else None
    if bins is None:
        return []
    if everything:
        return list(bins.get_roles())
    binned = {name for name in names if first_role(in_force.targets, name) == BINS_ROLE}
    asked = {bins.get_role_for_target(name) for name in binned}
    return sorted(asked | {role for role in roles if bins.is_delegated_role(role)})


def _moment(unverified: UnverifiedRepository, root: bytes, now: datetime) -> datetime:
    """Return the last moment when all that people have signed was valid; what the service signs must be so now."""
    for content, role in ((unverified.timestamp, Timestamp.type), (unverified.snapshot, Snapshot.type)):
        if (expires := _expires(content, role)) <= now:
            raise MetadataExpiredError(f"{role}: expected an expiry after {now}, found {expires}")
    signed = {Root.type: root, Targets.type: unverified.targets, **unverified.delegated}
    return min(now, *(_expires(content, role) - _MOMENT for role, content in signed.items()))


def _expires(content: bytes, role: str) -> datetime:
    try:
        return Metadata[Root].from_bytes(content).signed.expires
    except DeserializationError as error:
        raise RepositoryError(f"{role}: expected TUF metadata, found other bytes") from error


def _is_delegated(in_force: RepositoryInForce, role: str) -> bool:
    if role in delegated_roles(in_force.targets):
        return True
    below = in_force.delegated.get(BINS_ROLE)
    bins = None if below is None else hash_bins(below)
    return bins is not None and bins.is_delegated_role(role)


def _role_file(client: ApiClient, in_force: RepositoryInForce, role: str) -> bytes:
    # By version: a newer one may have come into force since the snapshot was read.
    return _file(client, f"{in_force.versions.get(role, 1)}.{role}.json")


def _file(client: ApiClient, name: str, *, repository: str = IMAGE) -> bytes:
    return client.get_bytes(f"/repository/{repository}/{name}")


def _check(target: TargetFile, content: bytes, *, where: object) -> None:
    try:
        target.verify_length_and_hashes(content)
    except LengthOrHashMismatchError as error:
        raise WorkingCopyError(f"{where}: expected the content that the metadata names, found another") from error
