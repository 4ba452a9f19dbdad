"""The people behind an Image repository: teams with keys of their own, hash bins, next versions signed by them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tuf.api.metadata import Metadata, Root, Snapshot, TargetFile, Targets, Timestamp

from pki.metadata import BIN_PREFIX, BINS_ROLE, Delegation, RoleKeys, add_signature, next_root
from pki.next_versions import Bins, bins_of, delegations_of, next_delegations
from pki.repository import RepositoryInForce, UnverifiedRepository, verify_in_force
from pki.roles import OfflineKey
from protocol.geometry import Slot
from protocol.signing import Signer, SoftwareSigner
from service.application.roots import Roots as RootChanges
from service.application.update_repositories import MetadataRole, RepositoryName
from tests.answering_roles import next_targets
from tests.integration.service_updates.update_world import RELEASER, UpdateWorld, image_target

DIRECTOR_ROLES = (Timestamp.type, Snapshot.type, Targets.type)
APPLICATIONS = ("images/a7/application/*",)


@dataclass
class Team:
    """People who sign a role together."""

    name: str
    paths: tuple[str, ...] = APPLICATIONS
    people: list[SoftwareSigner] = field(default_factory=lambda: [SoftwareSigner.generate()])
    threshold: int = 1

    @property
    def delegation(self) -> Delegation:
        keys = tuple(person.public_key for person in self.people)
        return Delegation(self.name, keys, self.threshold, self.paths)


class Roles:
    """Makes, signs and publishes the next versions of roles; tests spoil one thing of it."""

    def __init__(self, world: UpdateWorld) -> None:
        self.world = world
        self.targets: list[Signer] = [world.keys.load(OfflineKey.IMAGE_TARGETS)]
        self.teams: dict[str, Team] = {}
        self.packages: dict[str, bytes] = {}  # by target name

    @property
    def now(self) -> datetime:
        return self.world.clock.now()

    @property
    def expires(self) -> datetime:
        return self.now + timedelta(days=200)

    async def in_force(self) -> RepositoryInForce:
        """Verify everything in force as an operator's CLI does, from the first root on."""
        async with self.world.unit_of_work(read_only=True) as work:
            versions = await work.metadata.versions()
            names = [each.role for each in versions if each.repository is RepositoryName.IMAGE]
            files = await work.metadata.newest(RepositoryName.IMAGE, names)
            newest_root = files[MetadataRole.ROOT].version
            roots = [
                await work.metadata.find(RepositoryName.IMAGE, MetadataRole.ROOT, version=version)
                for version in range(1, newest_root + 1)
            ]
        chain = [root.content for root in roots if root is not None]
        contents = {role: file.content for role, file in files.items() if role not in set(MetadataRole)}
        timestamp, snapshot, targets = (files[role].content for role in ("timestamp", "snapshot", "targets"))

        def verified(delegated: Mapping[str, bytes]) -> RepositoryInForce:
            unverified = UnverifiedRepository(chain[1:], timestamp, snapshot, targets, delegated)
            return verify_in_force(unverified, trusted_root=chain[0], now=self.now)

        state = verified({})
        for _ in range(2):  # targets say whether there are bins, and bins which
            state = verified({role: content for role, content in contents.items() if _is_here(state, role)})
        return state

    async def delegate(self, *teams: Team, bins: Bins | None = None, without: Iterable[str] = ()) -> dict[str, bytes]:
        """Sign the delegations in force, and those of teams, or others in their place."""
        state = await self.in_force()
        named = {each.name: each for each in delegations_of(state.targets) if each.name not in without}
        named |= {team.name: team.delegation for team in teams}
        self.teams |= {team.name: team for team in teams}
        files = next_delegations(state, list(named.values()), bins=bins or bins_of(state), expires=self.expires)
        return self.sign(files)

    async def add(self, *targets: TargetFile, renewed: Sequence[str] = ()) -> dict[str, bytes]:
        """Sign new targets, each in the role that answers for it."""
        state = await self.in_force()
        return self.sign(next_targets(state, targets, expires=self.expires, renewed=renewed))

    def sign(self, unsigned: Mapping[str, bytes]) -> dict[str, bytes]:
        return {role: self.sign_role(role, content) for role, content in unsigned.items()}

    def sign_role(self, role: str, content: bytes, *, by: Sequence[Signer] | None = None) -> bytes:
        signers = by if by is not None else self.signers(role)
        for signer in signers:
            content = add_signature(content, signer)
        return content

    def signers(self, role: str) -> Sequence[Signer]:
        if role in {Targets.type, BINS_ROLE} or role.startswith(f"{BIN_PREFIX}-"):
            return self.targets
        team = self.teams[role]
        return team.people[: team.threshold]

    def bins(self, bits: int = 2) -> Bins:
        return Bins(RoleKeys(tuple(signer.public_key for signer in self.targets)), bits)

    async def publish(self, files: Mapping[str, bytes]) -> Mapping[str, int]:
        return await self.world.releases.publish(RELEASER, files)

    async def application(self, name: str) -> TargetFile:
        """Hand over an application's package; return its target."""
        package = self.world.package(name)
        await self.world.take(package)
        target = image_target(self.world, package, Slot.A7_APPLICATION, None)
        self.packages[target.path] = package
        return target


class People:
    """Root key holders of both repositories."""

    def __init__(self, world: UpdateWorld) -> None:
        self.world = world
        self.roles = Roles(world)
        self.root: list[Signer] = [world.keys.load(OfflineKey.ROOT)]
        self.use_case = RootChanges(
            world.unit_of_work, repository=world.repository, keys=world.metadata, clock=world.clock
        )

    async def current(self, repository: RepositoryName = RepositoryName.IMAGE) -> Root:
        file = await self.world.repository.file(repository, MetadataRole.ROOT)
        return Metadata[Root].from_bytes(file.content).signed

    async def next(self, changed: dict[str, RoleKeys], repository: RepositoryName = RepositoryName.IMAGE) -> bytes:
        return next_root(await self.current(repository), changed, expires=self.roles.expires)

    async def bring(
        self,
        root: bytes,
        by: list[Signer],
        *,
        repository: RepositoryName = RepositoryName.IMAGE,
        roles: dict[str, bytes] | None = None,
    ) -> int:
        for signer in by:
            root = add_signature(root, signer)
        return await self.use_case.change(RELEASER, repository, unverified=root, unverified_roles=roles or {})


def keys_of(*signers: Signer, threshold: int = 1) -> RoleKeys:
    return RoleKeys(tuple(signer.public_key for signer in signers), threshold)


def _is_here(state: RepositoryInForce, role: str) -> bool:
    if role.startswith(f"{BIN_PREFIX}-") and BINS_ROLE not in state.delegated:
        return False
    return state.delegates_to(role)
