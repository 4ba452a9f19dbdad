"""Witnesses for tests: real ones in this process behind the client's port, and the policy that names them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pki.errors import WitnessRefusedError
from pki.log_key import requested_log_key
from pki.metadata import image_root
from pki.online import ROOT_METADATA_LIFETIME, requested_key
from pki.witness import CheckpointWitness, WitnessState
from protocol.notes import Cosigner
from protocol.transparency import LogPolicy, policy_field
from service.adapters.log_signer import open_log_key
from service.application.checkpoints import Checkpoints, Witness, WitnessAnswer, WitnessError
from tests.integration.service_updates.update_world import RememberedKeys, UpdateWorld
from tests.service_folder import Folders

AT = 1_700_000_000
GENESIS_COPIES = ("service/genesis/image.root.json", "operator/repository/1.root.json")


def cosigner(number: int) -> Cosigner:
    """Return the key of a witness, the same each time."""
    return Cosigner(f"witness.example/w{number}", Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32))


def require_witnesses(folders: Folders, witnesses: tuple[str, ...], *, quorum: int) -> LogPolicy:
    """Have the first Image root name witnesses, as a ceremony that declares them does."""
    key = requested_log_key(folders.service)
    policy = LogPolicy(origin=key.name, log=str(key), witnesses=witnesses, quorum=quorum)
    _sign_root(folders, policy_field(policy))
    return policy


def forget_log(folders: Folders) -> None:
    """Have the first Image root say nothing of the log."""
    _sign_root(folders, {})


def _sign_root(folders: Folders, fields: Mapping[str, object]) -> None:
    keys = RememberedKeys(folders.keys)
    content = image_root(
        keys.load("root"),
        targets=keys.load("image-targets").public_key,
        snapshot=requested_key(folders.service, "snapshot"),
        timestamp=requested_key(folders.service, "timestamp"),
        expires=datetime.now(UTC) + ROOT_METADATA_LIFETIME,  # noqa: TID251 - the rest of the ceremony is of today
        fields=fields,
    )
    for name in GENESIS_COPIES:
        (folders.service.parent / name).write_bytes(content)


@dataclass
class Witnesses:
    """Three witnesses in this process; implements `WitnessClient`.

    Attributes:
        down: numbers of those that do not answer.
        asked: bodies of every request that reached one.
    """

    world: UpdateWorld
    state: Path
    down: set[int] = field(default_factory=set)
    asked: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        log = requested_log_key(self.world.folders.service)
        self._judges = {
            number: CheckpointWitness(cosigner(number), [log], WitnessState(self.state / str(number)))
            for number in (1, 2, 3)
        }

    def checkpoints(self) -> Checkpoints:
        """Return the service's background work with these witnesses, as after a start."""
        world = self.world
        return Checkpoints(
            world.unit_of_work,
            signer=open_log_key(world.folders.service),
            witnesses=[Witness(cosigner(number).key, f"memory:{number}") for number in self._judges],
            client=self,
            clock=world.clock,
        )

    async def add_checkpoint(self, url: str, body: bytes) -> WitnessAnswer:
        """See `WitnessClient.add_checkpoint`."""
        number = int(url.removeprefix("memory:"))
        if number in self.down:
            raise WitnessError(f"{url}: expected the witness to answer, found nobody")
        self.asked.append(body)
        try:
            return WitnessAnswer(cosignatures=self._judges[number].add_checkpoint(body, at=AT))
        except WitnessRefusedError as refused:
            if refused.size is None:
                raise WitnessError(str(refused)) from refused
            return WitnessAnswer(seen_size=refused.size)

    async def close(self) -> None:
        """Nothing is open."""
