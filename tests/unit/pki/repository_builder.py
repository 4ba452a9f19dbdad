"""An Image repository with teams and hash bins in memory: every role signed, and verified as it is served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from tuf.api.metadata import Metadata, MetaFile, Targets

from pki.metadata import (
    DELTAS_ROLE,
    RoleKeys,
    add_signature,
    image_root,
    listed_file,
    sign_snapshot,
    sign_targets,
    sign_timestamp,
)
from pki.next_state import trusted
from pki.next_versions import Bins
from pki.repository import RepositoryInForce, UnverifiedRepository, verify_in_force
from protocol.signing import Signer
from tests.unit.pki.pki_builder import NOW, OpaqueSigner

EXPIRES = NOW + timedelta(days=1)


def keys_of(*signers: Signer, threshold: int = 1) -> RoleKeys:
    return RoleKeys(tuple(signer.public_key for signer in signers), threshold)


@dataclass
class Roles:
    """Keys of every role, and the files in force.

    Attributes:
        teams: whoever signs a delegated role, by its name.
        files: of targets roles in force, by role.
        versions: of every role that the snapshot lists.
    """

    root: OpaqueSigner = field(default_factory=OpaqueSigner)
    targets: OpaqueSigner = field(default_factory=OpaqueSigner)
    online: OpaqueSigner = field(default_factory=OpaqueSigner)
    teams: dict[str, Sequence[Signer]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    listed: dict[str, MetaFile] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.trusted_root = image_root(
            self.root,
            targets=self.targets.public_key,
            snapshot=self.online.public_key,
            timestamp=self.online.public_key,
            expires=NOW + timedelta(days=365),
        )
        self.publish({"targets": sign_targets([], self.targets, version=1, expires=EXPIRES)})

    def sign(self, unsigned: Mapping[str, bytes]) -> dict[str, bytes]:
        return {role: self.sign_role(role, content) for role, content in unsigned.items()}

    def sign_role(self, role: str, content: bytes) -> bytes:
        for signer in self.teams.get(role, [self.targets]):
            content = add_signature(content, signer)
        return content

    def publish(self, signed: Mapping[str, bytes]) -> None:
        self.files |= signed
        for role, content in signed.items():
            version = Metadata[Targets].from_bytes(content).signed.version
            self.listed[role] = MetaFile(version) if role.startswith("bin-") else listed_file(content, version=version)

    def publish_deltas(self) -> None:
        """As the service does where targets delegate patches."""
        self.publish({DELTAS_ROLE: sign_targets([], self.online, version=1, expires=EXPIRES)})

    def unverified(self, **delegated: bytes) -> UnverifiedRepository:
        snapshot = sign_snapshot(self.listed, self.online, version=1, expires=EXPIRES)
        timestamp = sign_timestamp(snapshot, self.online, snapshot_version=1, version=1, expires=EXPIRES)
        return UnverifiedRepository([], timestamp, snapshot, self.files["targets"], delegated)

    def in_force(self, *roles: str, **minimum_versions: int) -> RepositoryInForce:
        """Verify targets and some of the roles below; all of them where none is named."""
        chosen = roles or tuple(role for role in self.files if role != "targets")
        files = {role: self.files[role] for role in chosen}
        return verify_in_force(
            self.unverified(**files), trusted_root=self.trusted_root, now=NOW, minimum_versions=minimum_versions
        )

    def trusted(self, role: str) -> Targets:
        return trusted(self.files[role], Targets)

    def bins(self, bits: int = 1) -> Bins:
        return Bins(keys_of(self.targets), bits)
