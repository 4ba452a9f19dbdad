"""Sign update metadata of both repositories: TUF files (python-tuf's Metadata API), compact JSON.

Versions and times are arguments; keys come as signers, so that each may live where its role says: `root` and
`image-targets` offline, `director`, `snapshot` and `timestamp` with the service. What several people are to sign is
made without a signature, and each adds one (`add_signature`). Verification is in pki/repository.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from tuf.api.metadata import (
    SPECIFICATION_VERSION,
    TOP_LEVEL_ROLE_NAMES,
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from pki.errors import RepositoryError
from protocol.geometry import Slot
from protocol.signing import Signer, TufSigner, tuf_key
from protocol.updates import DEVICE_FIELD, DirectorCustom, DirectorDevice, image_custom

HASH_ALGORITHM = "sha256"
DELTAS_ROLE = "deltas"  # patches, signed online: a patch is taken only if it makes an image that is signed offline
DELTAS_PATHS = ("deltas/*/*",)
BINS_ROLE = "bins"  # delegates everything but release documents to hash bins
BINS_PATHS = ("images/*/*", "images/*/*/*", "golden/*/*", "documents/*/*")
BIN_PREFIX = "bin"
MAX_BIN_BITS = 12  # 4,096 hash bins: a proposal holds every bin, and so does a snapshot
RoleT = TypeVar("RoleT", Root, Timestamp, Snapshot, Targets)
_COMPACT = JSONSerializer(compact=True)
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
_SPEC_VERSION = ".".join(SPECIFICATION_VERSION)


@dataclass(frozen=True, slots=True)
class RoleKeys:
    """Whose signatures a role needs.

    Attributes:
        keys: all different.
        threshold: how many of them must sign.
    """

    keys: tuple[ec.EllipticCurvePublicKey, ...]
    threshold: int = 1


@dataclass(frozen=True, slots=True)
class Delegation:
    """A role that may list targets of its own, and no others.

    Attributes:
        name: of the role and its file.
        keys: all different.
        threshold: how many of them must sign.
        paths: patterns of target names; `*` stands for any characters but `/`.
    """

    name: str
    keys: tuple[ec.EllipticCurvePublicKey, ...]
    threshold: int
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MetadataSet:
    """The three files of one repository below its root, JSON bytes."""

    targets: bytes
    snapshot: bytes
    timestamp: bytes


class DirectorSigner:
    """Signs the Director's metadata for one device at a time, with one online key.

    Args:
        signer: the `director` key, which the Director's root names for timestamp, snapshot and targets.
    """

    def __init__(self, signer: Signer) -> None:
        self._signer = TufSigner(signer)  # computes the key id once, not per device

    def sign_set(
        self, device: DirectorDevice, targets: Sequence[TargetFile], *, version: int, expires: datetime
    ) -> MetadataSet:
        """Sign what one device is to run; no target means that nothing waits for it.

        Args:
            device: goes into the targets metadata, so that no other device's can be passed off.
            targets: see `director_target`.
            version: of all three files; must never fall for a device.
            expires: of all three files, UTC, aware.
        """
        shared = {"expires": f"{_whole_seconds(expires):%FT%TZ}", "spec_version": _SPEC_VERSION, "version": version}
        named, listed = device.model_dump(mode="json"), {target.path: target.to_dict() for target in targets}
        only = {"version": version}
        return MetadataSet(
            targets=self._sign(shared | {"_type": Targets.type, "targets": listed, DEVICE_FIELD: named}),
            snapshot=self._sign(shared | {"_type": Snapshot.type, "meta": {"targets.json": only}}),
            timestamp=self._sign(shared | {"_type": Timestamp.type, "meta": {"snapshot.json": only}}),
        )

    def _sign(self, signed: Mapping[str, object]) -> bytes:
        # The bytes of python-tuf's Metadata.sign and to_bytes, from one encoding instead of two. It is OLPC canonical
        # JSON where no text holds a control character, as in a Director's set; keys in a root do (PEM).
        content = _canonical(signed).encode()
        signature = self._signer.sign(content)
        head = f'{{"signatures":[{{"keyid":"{signature.keyid}","sig":"{signature.signature}"}}],"signed":'
        return head.encode() + content + b"}"


def director_target(image: TargetFile, *, slot: Slot, release: str) -> TargetFile:
    """Turn a target of the Image repository into the Director's word that a slot is to hold it.

    Args:
        image: an image target in force.
        slot: where it goes.
        release: target name of the release document.

    Raises:
        UpdateMetadataError: the target's custom metadata is malformed.
    """
    custom = DirectorCustom(
        slot=slot,
        hardware_id=slot.core.hardware_id,
        security_counter=image_custom(image).security_counter,
        release=release,
    )
    return TargetFile(image.length, image.hashes, image.path, {"custom": custom.model_dump(mode="json")})


def content_target(name: str, content: bytes, custom: Mapping[str, object] | None = None) -> TargetFile:
    """Describe bytes as a target: length and SHA-256, with custom metadata where given."""
    target = TargetFile.from_data(name, content, [HASH_ALGORITHM])
    if custom is not None:
        target.unrecognized_fields["custom"] = dict(custom)
    return target


def director_root(root: Signer, *, director: ec.EllipticCurvePublicKey, expires: datetime) -> bytes:
    """Sign the Director's first root.json: all three online roles are the `director` key."""
    online = dict.fromkeys((Timestamp.type, Snapshot.type, Targets.type), RoleKeys((director,)))
    return add_signature(root_metadata({Root.type: RoleKeys((root.public_key,))} | online, expires=expires), root)


def image_root(
    root: Signer,
    *,
    targets: ec.EllipticCurvePublicKey,
    snapshot: ec.EllipticCurvePublicKey,
    timestamp: ec.EllipticCurvePublicKey,
    expires: datetime,
    fields: Mapping[str, object] | None = None,
) -> bytes:
    """Sign the Image repository's first root.json; `fields` go into it beside TUF's own."""
    keys = {Root.type: root.public_key, Targets.type: targets, Snapshot.type: snapshot, Timestamp.type: timestamp}
    roles = {role: RoleKeys((key,)) for role, key in keys.items()}
    return add_signature(root_metadata(roles, expires=expires, fields=fields), root)


def root_metadata(
    roles: Mapping[str, RoleKeys],
    *,
    expires: datetime,
    version: int = 1,
    fields: Mapping[str, object] | None = None,
) -> bytes:
    """Return a root.json without signatures.

    Args:
        roles: each of TUF's four top-level roles.
        expires: UTC, aware.
        version: one above the root before.
        fields: go into it beside TUF's own.

    Raises:
        RepositoryError: a role names a key twice, or fewer keys than its threshold.
    """
    keys = {key.keyid: key for role in roles.values() for key in map(tuf_key, role.keys)}
    # Files are served under their plain names and fetched by content hash: no consistent snapshots.
    signed = Root(
        version,
        expires=_whole_seconds(expires),
        keys=dict(keys),
        roles={name: _role(role) for name, role in roles.items()},
        consistent_snapshot=False,
        unrecognized_fields=dict(fields or {}),
    )
    return _unsigned(signed)


def next_root(
    current: Root, changed: Mapping[str, RoleKeys], *, expires: datetime, fields: Mapping[str, object] | None = None
) -> bytes:
    """Return the root.json that follows, without signatures.

    Args:
        current: verified.
        changed: the roles with other keys; all others keep theirs.
        expires: UTC, aware.
        fields: take the place of those of the same names; all others stay.

    Raises:
        RepositoryError: a role names a key twice, or fewer keys than its threshold.
    """
    roles = dict(current.roles) | {name: _role(role) for name, role in changed.items()}
    known = dict(current.keys) | {key.keyid: key for role in changed.values() for key in map(tuf_key, role.keys)}
    used = {key_id for role in roles.values() for key_id in role.keyids}
    signed = Root(
        current.version + 1,
        expires=_whole_seconds(expires),
        keys={key_id: key for key_id, key in known.items() if key_id in used},
        roles=roles,
        consistent_snapshot=current.consistent_snapshot,
        unrecognized_fields=current.unrecognized_fields | dict(fields or {}),
    )
    return _unsigned(signed)


def targets_metadata(
    targets: Iterable[TargetFile], *, version: int, expires: datetime, delegations: Delegations | None = None
) -> bytes:
    """Return the metadata of a targets role, top-level or delegated, without signatures."""
    listed = _by_name(targets)
    signed = Targets(version, expires=_whole_seconds(expires), targets=listed, delegations=delegations)
    return _unsigned(signed)


def sign_targets(
    targets: Sequence[TargetFile],
    signer: Signer,
    *,
    version: int,
    expires: datetime,
    delegations: Delegations | None = None,
) -> bytes:
    """Sign the metadata of a targets role, top-level or delegated, with one key."""
    unsigned = targets_metadata(targets, version=version, expires=expires, delegations=delegations)
    return add_signature(unsigned, signer)


def role_delegations(delegated: Sequence[Delegation]) -> Delegations:
    """Delegate to roles by patterns of names; the first whose pattern fits is asked, and no other after it.

    Raises:
        RepositoryError: a role has a name of the root's, or names a key twice, or fewer keys than its threshold.
    """
    if taken := sorted(TOP_LEVEL_ROLE_NAMES & {each.name for each in delegated}):
        raise RepositoryError(f"delegations: expected roles of names that the root does not use, found {taken[0]}")
    roles = {
        each.name: DelegatedRole(
            each.name, _key_ids(each.keys, each.threshold), each.threshold, terminating=True, paths=[*each.paths]
        )
        for each in delegated
    }
    return Delegations({key.keyid: key for each in delegated for key in map(tuf_key, each.keys)}, roles)


def bin_delegations(keys: RoleKeys, *, bits: int) -> Delegations:
    """Delegate to 2^bits hash bins, all with the same keys (TAP 15).

    Args:
        keys: of every bin.
        bits: 1 to `MAX_BIN_BITS`.

    Raises:
        RepositoryError: too many bins; or a key is named twice, or there are fewer than the threshold.
    """
    if not 1 <= bits <= MAX_BIN_BITS:
        raise RepositoryError(f"hash bins: expected 1 to {MAX_BIN_BITS} bits, found {bits}")
    bins = SuccinctRoles(_key_ids(keys.keys, keys.threshold), keys.threshold, bits, BIN_PREFIX)
    return Delegations({key.keyid: key for key in map(tuf_key, keys.keys)}, succinct_roles=bins)


def add_signature(metadata: bytes, signer: Signer) -> bytes:
    """Return metadata with one more signature; one by the same key is replaced.

    Nothing of it is verified here: whoever signs has seen what it says.

    Raises:
        RepositoryError: the bytes are no TUF metadata.
    """
    try:
        parsed: Metadata[Targets] = Metadata.from_bytes(metadata)  # or of any other role
    except DeserializationError as error:
        raise RepositoryError("metadata to sign: expected TUF metadata, found other bytes") from error
    return _with_signature(parsed, signer)


def public_key_of(key: Key) -> ec.EllipticCurvePublicKey:
    """Return the public key that metadata names.

    Raises:
        RepositoryError: it is no P-256 key.
    """
    try:
        found = load_pem_public_key(key.keyval["public"].encode())
    except (KeyError, ValueError, UnsupportedAlgorithm) as error:
        raise RepositoryError(f"key {key.keyid[:16]}…: expected a P-256 key in PEM, found another text") from error
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP256R1):
        raise RepositoryError(f"key {key.keyid[:16]}…: expected a P-256 key, found a {key.keytype} key")
    return found


def listed_file(content: bytes, *, version: int) -> MetaFile:
    """Describe a metadata file to a snapshot: version, length and SHA-256."""
    return MetaFile.from_data(version, content, [HASH_ALGORITHM])


def sign_snapshot(files: Mapping[str, MetaFile], signer: Signer, *, version: int, expires: datetime) -> bytes:
    """Sign the Image repository's snapshot.json.

    Args:
        files: by role, `targets` and every delegated one; see `listed_file`. Of hash bins the version is enough.
        signer: the `snapshot` key.
        version: of the snapshot.
        expires: UTC, aware.
    """
    meta = {f"{role}.json": file for role, file in files.items()}
    return _sign(Snapshot(version, expires=_whole_seconds(expires), meta=meta), signer)


def sign_timestamp(snapshot: bytes, signer: Signer, *, snapshot_version: int, version: int, expires: datetime) -> bytes:
    """Sign the Image repository's timestamp.json over its snapshot.json."""
    meta = MetaFile.from_data(snapshot_version, snapshot, [HASH_ALGORITHM])
    return _sign(Timestamp(version, expires=_whole_seconds(expires), snapshot_meta=meta), signer)


def _unsigned(signed: RoleT) -> bytes:
    return Metadata(signed).to_bytes(_COMPACT)


def _sign(signed: RoleT, signer: Signer) -> bytes:
    return _with_signature(Metadata(signed), signer)


def _with_signature(metadata: Metadata[RoleT], signer: Signer) -> bytes:
    key = TufSigner(signer)
    # Metadata.sign would turn a key store's error into one of python-tuf's.
    metadata.signatures[key.public_key.keyid] = key.sign(metadata.signed_bytes)
    return metadata.to_bytes(_COMPACT)


def _role(role: RoleKeys) -> Role:
    return Role(_key_ids(role.keys, role.threshold), role.threshold)


def _key_ids(keys: Sequence[ec.EllipticCurvePublicKey], threshold: int) -> list[str]:
    key_ids = [tuf_key(key).keyid for key in keys]
    if len(set(key_ids)) != len(key_ids) or not 1 <= threshold <= len(key_ids):
        raise RepositoryError(
            f"keys of a role: expected different ones and a threshold of 1 to their number, "
            f"found {len(set(key_ids))} different of {len(key_ids)} and a threshold of {threshold}"
        )
    return key_ids


def _by_name(targets: Iterable[TargetFile]) -> dict[str, TargetFile]:
    return {target.path: target for target in targets}


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
