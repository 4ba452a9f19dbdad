"""`tinyfleet metadata restore`: after the service lost what people signed since its backup, give it back in order.

Devices and this working copy have seen higher versions than the backup holds, and take no older ones. What was signed
is signed for good: the same bytes come into force again, publication after publication, through the ways by which
they first did; the service verifies them as new ones.

1. what is missing: versions of this copy above those that the service has, without a gap;
2. publications: files that were drafted in the same second came together, where one needs the other; the earliest
   goes first, and one that the service does not take yet waits for others;
3. of each: the files of new targets, then its metadata, as a root, a release or further targets;
4. at the end all is verified as ever, from our root down.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from pki.metadata import BIN_PREFIX, DELTAS_ROLE
from pki.next_state import trusted
from pki.online import ROOT_METADATA_LIFETIME, TARGETS_METADATA_LIFETIME
from protocol.document import parse_document
from protocol.updates import MAX_RELEASE_BYTES, ReleaseDocument
from service.cli.client import ApiClient, JsonObject
from service.cli.errors import RefusedError
from service.cli.settling import Session, upload
from service.cli.working_copy import DIRECTOR, IMAGE, WorkingCopy, WorkingCopyError

_SERVICE_SIGNS = frozenset({Snapshot.type, Timestamp.type, DELTAS_ROLE})


@dataclass(frozen=True, slots=True)
class Missing:
    """A file that the service has lost.

    Attributes:
        repository: `image` or `director`.
        drafted_at: when it was made, UTC, aware.
        adds: whether it has new targets.
        binds: whether what comes with it may be signed by keys that the one before it did not name; of a root, for
            targets.
    """

    repository: str
    role: str
    version: int
    content: bytes
    drafted_at: datetime
    adds: bool
    binds: bool

    @property
    def name(self) -> str:
        """Role and version, for people."""
        return f"{self.repository} {self.role} {self.version}"


def restore(session: Session) -> list[str]:
    """Give the service what it lacks of this working copy.

    Returns:
        what came into force again: repository, role and version.

    Raises:
        WorkingCopyError: a version between is missing here, or a target's file is.
        RefusedError: the service does not take what is left.
        PkiError: what is in force at the end does not verify.
        CliError: the service does not answer.
    """
    # Step 1: what is missing.
    waiting = _publications(_missing(session))
    restored: list[str] = []
    while waiting:
        taken = _first_taken(session, waiting)
        waiting.remove(taken)
        restored += [file.name for file in taken]
    # Step 4: all is verified.
    session.working_copy.fetch_director_root(session.client, now=session.now, expired=True)
    session.working_copy.fetch(session.client, now=session.now, everything=True, expired=True)
    return restored


def _missing(session: Session) -> Iterator[Missing]:
    copy, client = session.working_copy, session.client
    director, image = copy.known_versions()
    yield from _missing_of(copy, DIRECTOR, Root.type, range(_newest_root(client, DIRECTOR, director) + 1, director + 1))
    snapshot = trusted(client.get_bytes(f"/repository/{IMAGE}/snapshot.json"), Snapshot)
    for role, version in sorted(image.items()):
        if role in _SERVICE_SIGNS:
            continue
        if role == Root.type:
            found = _newest_root(client, IMAGE, version)
        else:
            found = snapshot.meta[f"{role}.json"].version if f"{role}.json" in snapshot.meta else 0
        yield from _missing_of(copy, IMAGE, role, range(found + 1, version + 1))


def _newest_root(client: ApiClient, repository: str, known: int) -> int:
    newest = trusted(client.get_bytes(f"/repository/{repository}/root.json"), Root)
    return min(newest.version, known)


def _missing_of(copy: WorkingCopy, repository: str, role: str, versions: Sequence[int]) -> Iterator[Missing]:
    for version in versions:
        content = copy.find_metadata(role, version=version, repository=repository)
        if content is None:
            raise WorkingCopyError(
                f"working copy: expected version {version} of {repository} {role}, which the service lacks, "
                f"found none; copy it from the repository/ of whoever published it"
            )
        if role == Root.type:
            drafted_at = trusted(content, Root).expires - ROOT_METADATA_LIFETIME
            binds = _rekeys_targets(copy, repository, version, content)
            yield Missing(repository, role, version, content, drafted_at, adds=False, binds=binds)
        else:
            adds = bool(_added(copy, role, version, content))
            drafted_at = trusted(content, Targets).expires - TARGETS_METADATA_LIFETIME
            yield Missing(repository, role, version, content, drafted_at, adds=adds, binds=True)


def _publications(missing: Iterator[Missing]) -> list[list[Missing]]:
    # Step 2: publications.
    found: list[list[Missing]] = []
    for file in sorted(missing, key=lambda file: (file.drafted_at, file.repository, _depth(file.role), file.version)):
        publication = _publication_of(file, found)
        if publication is None:
            found.append([file])
        else:
            publication.append(file)
    return found


def _publication_of(file: Missing, found: Sequence[list[Missing]]) -> list[Missing] | None:
    # Several may be of one second: a role came with what first delegated to it, a later version after the one before.
    if file.version == 1:
        return next((each for each in found if _came_together(each, file) and _delegates(each, file.role)), None)
    before = [number for number, each in enumerate(found) if _brings(each, file.role, file.version - 1)]
    later = found[before[0] + 1 :] if before else found
    # New targets speak of one another; what has none may be signed anew because of another's keys.
    return next((each for each in later if _came_together(each, file) and _needs(each, file)), None)


def _needs(publication: Sequence[Missing], file: Missing) -> bool:
    return all(each.binds for each in publication) and file.adds == any(each.adds for each in publication)


def _brings(publication: Sequence[Missing], role: str, version: int) -> bool:
    return any((each.role, each.version) == (role, version) for each in publication)


def _depth(role: str) -> int:
    """Return how many delegations lead to a role."""
    if role in {Root.type, Targets.type}:
        return 0
    return 2 if role.startswith(f"{BIN_PREFIX}-") else 1


def _delegates(publication: Sequence[Missing], role: str) -> bool:
    parts = (trusted(file.content, Targets).delegations for file in publication if file.role != Root.type)
    for delegations in (each for each in parts if each is not None):
        succinct = delegations.succinct_roles
        if role in (delegations.roles or {}) or (succinct is not None and succinct.is_delegated_role(role)):
            return True
    return False


def _came_together(publication: Sequence[Missing], file: Missing) -> bool:
    first = publication[0]
    is_same = (first.drafted_at, first.repository) == (file.drafted_at, file.repository)
    return is_same and all(each.role != file.role for each in publication)


def _first_taken(session: Session, waiting: Sequence[list[Missing]]) -> list[Missing]:
    refused: RefusedError | None = None
    for publication in waiting:
        try:
            _publish(session, publication)
        except RefusedError as error:
            refused = refused or error
        else:
            return publication
    raise refused or WorkingCopyError("working copy: expected a publication to restore, found none")


def _publish(session: Session, publication: Sequence[Missing]) -> None:
    # Step 3: files, then metadata.
    copy = session.working_copy
    added = {
        name: target
        for file in publication
        if file.adds
        for name, target in _added(copy, file.role, file.version, file.content).items()
    }
    here = [target for name, target in added.items() if copy.find(name) is not None]
    upload(session, {target.path: copy.read(target) for target in here})
    path, body = _request(copy, publication, added)
    session.client.post(path, body)


def _added(copy: WorkingCopy, role: str, version: int, content: bytes) -> Mapping[str, TargetFile]:
    before = copy.find_metadata(role, version=version - 1)
    known = {} if before is None else trusted(before, Targets).targets
    return {name: each for name, each in trusted(content, Targets).targets.items() if name not in known}


def _rekeys_targets(copy: WorkingCopy, repository: str, version: int, content: bytes) -> bool:
    """Return whether a root has other keys for targets than the one before, for all that this copy knows."""
    before = copy.find_metadata(Root.type, version=version - 1, repository=repository)
    return before is None or trusted(before, Root).roles[Targets.type] != trusted(content, Root).roles[Targets.type]


def _request(
    copy: WorkingCopy, publication: Sequence[Missing], added: Mapping[str, TargetFile]
) -> tuple[str, JsonObject]:
    files = {file.role: base64.b64encode(file.content).decode() for file in publication}
    if Root.type in files:
        root = files.pop(Root.type)
        return f"/repository/{publication[0].repository}/root", {"metadata": root} | ({"roles": files} if files else {})
    documents = [
        (name, parse_document(copy.read(target), ReleaseDocument, max_bytes=MAX_RELEASE_BYTES))
        for name, target in sorted(added.items())
        if name.startswith("releases/")
    ]
    if not documents:
        return f"/repository/{IMAGE}/targets", {"metadata": files}
    (name, release), *back = sorted(documents, key=lambda each: each[1].counter)
    body: JsonObject = {"name": release.name, "metadata": files, "release_target": name}
    return "/releases", body | ({"way_back_target": back[0][0]} if back else {})
