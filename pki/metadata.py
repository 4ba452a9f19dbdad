"""Sign update metadata of both repositories: TUF files (python-tuf's Metadata API), compact JSON.

Versions and times are arguments; keys come as signers, so that each may live where its role says: `root` and
`image-targets` offline, `director`, `snapshot` and `timestamp` with the service. Verification is in pki/repository.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from protocol.geometry import Slot
from protocol.signing import Signer, TufSigner, tuf_key
from protocol.updates import DEVICE_FIELD, DirectorCustom, DirectorDevice, image_custom

HASH_ALGORITHM = "sha256"
RoleT = TypeVar("RoleT", Root, Timestamp, Snapshot, Targets)
_COMPACT = JSONSerializer(compact=True)


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
        named = {DEVICE_FIELD: device.model_dump(mode="json")}
        moment = _whole_seconds(expires)
        chosen = Targets(version, expires=moment, targets=_by_name(targets), unrecognized_fields=named)
        return MetadataSet(
            targets=self._sign(chosen),
            snapshot=self._sign(Snapshot(version, expires=moment, meta={"targets.json": MetaFile(version)})),
            timestamp=self._sign(Timestamp(version, expires=moment, snapshot_meta=MetaFile(version))),
        )

    def _sign(self, signed: Targets | Snapshot | Timestamp) -> bytes:
        # One encoding to sign and to send; Metadata.sign and to_bytes would make two. It is OLPC canonical JSON
        # where no text holds a control character, as in a Director's set; keys in a root do (PEM).
        content = json.dumps(signed.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        signature = json.dumps(self._signer.sign(content).to_dict(), separators=(",", ":")).encode()
        return b'{"signatures":[' + signature + b'],"signed":' + content + b"}"


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
    return _first_root(root, dict.fromkeys((Timestamp.type, Snapshot.type, Targets.type), director), expires)


def image_root(
    root: Signer,
    *,
    targets: ec.EllipticCurvePublicKey,
    snapshot: ec.EllipticCurvePublicKey,
    timestamp: ec.EllipticCurvePublicKey,
    expires: datetime,
    fields: Mapping[str, object] | None = None,
) -> bytes:
    """Sign the Image repository's first root.json.

    Args:
        root: the `root` key.
        targets: the `image-targets` key.
        snapshot: the service's key.
        timestamp: the service's key.
        expires: UTC, aware.
        fields: what it says beyond TUF, such as the transparency log's policy.
    """
    roles = {Targets.type: targets, Snapshot.type: snapshot, Timestamp.type: timestamp}
    return _first_root(root, roles, expires, fields)


def sign_targets(targets: Sequence[TargetFile], signer: Signer, *, version: int, expires: datetime) -> bytes:
    """Sign the Image repository's targets.json."""
    signed = Targets(version, expires=_whole_seconds(expires), targets=_by_name(targets))
    return _sign(signed, signer)


def sign_snapshot(targets: bytes, signer: Signer, *, targets_version: int, version: int, expires: datetime) -> bytes:
    """Sign the Image repository's snapshot.json over its targets.json."""
    meta = {"targets.json": MetaFile.from_data(targets_version, targets, [HASH_ALGORITHM])}
    return _sign(Snapshot(version, expires=_whole_seconds(expires), meta=meta), signer)


def sign_timestamp(snapshot: bytes, signer: Signer, *, snapshot_version: int, version: int, expires: datetime) -> bytes:
    """Sign the Image repository's timestamp.json over its snapshot.json."""
    meta = MetaFile.from_data(snapshot_version, snapshot, [HASH_ALGORITHM])
    return _sign(Timestamp(version, expires=_whole_seconds(expires), snapshot_meta=meta), signer)


def _first_root(
    root: Signer,
    roles: Mapping[str, ec.EllipticCurvePublicKey],
    expires: datetime,
    fields: Mapping[str, object] | None = None,
) -> bytes:
    # Files are served under their plain names and fetched by content hash: no consistent snapshots.
    further = dict(fields or {})
    signed = Root(1, expires=_whole_seconds(expires), consistent_snapshot=False, unrecognized_fields=further)
    signed.add_key(tuf_key(root.public_key), Root.type)
    for role, key in roles.items():
        signed.add_key(tuf_key(key), role)
    return _sign(signed, root)


def _sign(signed: RoleT, signer: Signer) -> bytes:
    metadata, key = Metadata(signed), TufSigner(signer)
    # Metadata.sign would turn a key store's error into one of python-tuf's.
    metadata.signatures[key.public_key.keyid] = key.sign(metadata.signed_bytes)
    return metadata.to_bytes(_COMPACT)


def _by_name(targets: Sequence[TargetFile]) -> dict[str, TargetFile]:
    return {target.path: target for target in targets}


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
