"""The transparency log as a device asks of it: nothing is installed that not everybody could have seen.

Where the Image repository's root carries a policy (protocol/transparency.py), every image of an update must be in the
log. The device computes the entry from the metadata that it has verified, asks the service for the proof by the entry's
hash, and checks, in this order:
    1. policy: what the root carries is one;
    2. entry: the image's metadata says everything that an entry does;
    3. proof: the log signed the checkpoint, enough witnesses cosigned it, the entry is its leaf;
    4. memory: checkpoints never shrink, and two of one size are the same; the largest one is kept.
A proof that is not there yet is asked for again later; one that is wrong ends the update. Roots are logged for
auditors; the device asks no proof of them, because the root keys decide over the log too: a lost log key must be
replaceable.
"""

import json
from dataclasses import dataclass

from tuf.api.metadata import Root

from device_sim.network.ports import EndlessDataError, HttpTransport
from device_sim.network.problems import unexpected
from device_sim.update.errors import UpdateError
from device_sim.update.repository import Storage
from protocol.errors import ProtocolError
from protocol.messages import Attack
from protocol.notes import NoteSignatureError
from protocol.tlog import MAX_PROOF_BYTES, Checkpoint
from protocol.transparency import (
    LogEntryError,
    LogKeyError,
    LogPolicy,
    OriginError,
    QuorumError,
    entry_hash,
    image_entry,
    policy_of,
    verify_logged,
)
from protocol.updates import ImageCustom

PROOF_PATH = "/device/v1/transparency/"
STORED = "uptane/log"
OK = 200


class LogPolicyRefusedError(UpdateError):
    """The root carries something else than a policy of the log."""


class NotLoggedError(UpdateError):
    """The proof is not one of this image: it was made in secret, or its facts were changed afterwards."""


class ForeignLogError(UpdateError):
    """The proof is of another log than the root names, or is not signed by its key."""


class UnwitnessedError(UpdateError):
    """Too few of the witnesses have seen the log as it is shown: perhaps to this device alone."""

    attack = Attack.SPLIT_VIEW


class LogRolledBackError(UpdateError):
    """The log has become shorter: an old view is replayed, or entries were taken out."""

    attack = Attack.ROLLBACK


class LogForkedError(UpdateError):
    """Two different trees of one size: the log shows different things to different people."""

    attack = Attack.SPLIT_VIEW


@dataclass(frozen=True, slots=True)
class LogGate:
    """Lets images through that are logged.

    Attributes:
        storage: keeps the largest checkpoint.
        transport: with the operational certificate.
        policy: of the verified root; None lets everything through.
    """

    storage: Storage
    transport: HttpTransport
    policy: LogPolicy | None

    def require(self, target: str, custom: ImageCustom, *, sha256: str, length: int) -> None:
        """Check that an image is logged.

        Args:
            target: its name, verified like all of the following.
            custom: what the Image repository says of it.
            sha256: of the package, 64 hex digits.
            length: of the package, bytes.

        Raises:
            NetworkError: the proof is not there yet, or the service was not reached.
            UpdateError: steps 2 to 4.
        """
        if self.policy is None:
            return
        # Step 2: entry.
        try:
            entry = image_entry(target, custom, sha256=sha256, length=length)
        except LogEntryError as error:
            raise NotLoggedError(str(error)) from error
        unverified_proof = self._fetch(entry_hash(entry).hex())
        # Step 3: proof.
        try:
            checkpoint = verify_logged(entry, unverified_proof, self.policy).checkpoint
        except (OriginError, LogKeyError, NoteSignatureError) as error:
            raise ForeignLogError(f"{target}: {error}") from error
        except QuorumError as error:
            raise UnwitnessedError(f"{target}: {error}") from error
        except ProtocolError as error:
            raise NotLoggedError(f"{target}: {error}") from error
        self._remember(self.policy, checkpoint)

    def _fetch(self, leaf: str) -> bytes:
        try:
            response = self.transport.request("GET", PROOF_PATH + leaf, max_bytes=MAX_PROOF_BYTES)
        except EndlessDataError as error:
            raise NotLoggedError(f"proof: {error}") from error
        if response.status != OK:
            raise unexpected(f"proof {leaf[:16]}", response, expected=OK)
        return response.body

    def _remember(self, policy: LogPolicy, checkpoint: Checkpoint) -> None:
        # Step 4: memory. Another log key begins another memory.
        kept = json.loads(self.storage.get(STORED) or b"{}")
        size = kept.get("size", 0) if kept.get("log") == policy.log else 0
        if checkpoint.size < size:
            raise LogRolledBackError(f"log: expected at least {size} entries, found {checkpoint.size}")
        if checkpoint.size == size and kept["root"] != checkpoint.root.hex():
            raise LogForkedError(f"log of {size} entries: expected root {kept['root'][:16]}…, found another")
        if checkpoint.size > size:
            seen = {"log": policy.log, "size": checkpoint.size, "root": checkpoint.root.hex()}
            self.storage.put(STORED, json.dumps(seen, sort_keys=True).encode())


def required_policy(root: Root) -> LogPolicy | None:
    """Return what a verified root asks of the log, or None.

    Raises:
        LogPolicyRefusedError: step 1.
    """
    # Step 1: policy.
    try:
        return policy_of(root)
    except ProtocolError as error:
        raise LogPolicyRefusedError(str(error)) from error
