"""Artifacts: packages, golden vectors, release documents and what is said of them, taken only once they are verified.

Verification of unverified bytes, in this order:
    1. length: at most `MAX_PACKAGE_BYTES`, refused while they arrive;
    2. hash: the SHA-256 that the caller named;
    3. form, by the first byte: a JSON object is golden vectors or provenance (DSSE envelopes), a bill of materials or
       an exploitability document (CycloneDX), or a release document; everything else is an image package;
    4. signature: of a package key or the maker's system key for packages, of a golden key for golden vectors, of a
       package key for provenance. The other documents bear none: the Image targets metadata that lists their hash
       signs them;
    5. payload, of packages: a model, a trust store or a board configuration is of its form.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from protocol.cyclonedx import read_bom, read_vex
from protocol.document import MAX_DOCUMENT_BYTES, parse_document, verify_document
from protocol.errors import ProtocolError, SignatureError
from protocol.image import MAX_PACKAGE_BYTES, verify_package
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVectors, ModelPackage
from protocol.payloads import check_payload
from protocol.provenance import PAYLOAD_TYPE as PROVENANCE_PAYLOAD_TYPE
from protocol.provenance import verify_provenance
from protocol.updates import MAX_RELEASE_BYTES, ReleaseDocument
from service.application.audit import Change
from service.application.clock import Clock
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.errors import InvalidError, JsonValue, NotFoundError
from service.domain.operator import Actor
from service.domain.release import Artifact, ArtifactKind

MOST_DESCRIBED = 10_000  # packages, at a start
_log = structlog.get_logger()


class ArtifactTooLongError(InvalidError):
    """More bytes than any artifact has."""


class ArtifactHashError(InvalidError):
    """The bytes are not those of the hash under which they came."""


class UnknownArtifactError(NotFoundError):
    """There are no bytes of this hash."""


@dataclass(frozen=True, slots=True)
class TrustedKeys:
    """Whose signatures make an artifact acceptable; from the ceremony, see genesis/catalog.json.

    Attributes:
        package: applications, firmware and models.
        system: the maker's, for boot loader, security monitor and OS.
        golden: golden vectors.
    """

    package: Sequence[ec.EllipticCurvePublicKey]
    system: Sequence[ec.EllipticCurvePublicKey]
    golden: Sequence[ec.EllipticCurvePublicKey]


class ArtifactStore(Protocol):
    """Bytes by their hash: files, or an object store."""

    async def put(self, sha256: str, content: bytes) -> None:
        """Store bytes, whole or not at all."""

    async def length(self, sha256: str) -> int | None:
        """Return how many bytes are stored under a hash, None if there are none."""

    async def delete(self, sha256: str) -> None:
        """Remove the bytes under a hash; if there are none, nothing changes."""

    def read(self, sha256: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to before `end` in small blocks.

        Raises:
            UnknownArtifactError: there is none.
        """


class Artifacts:
    """Takes and hands out artifacts."""

    def __init__(
        self, unit_of_work: UnitOfWorkFactory, *, store: ArtifactStore, keys: TrustedKeys, clock: Clock
    ) -> None:
        self._unit_of_work = unit_of_work
        self._store = store
        self._keys = keys
        self._clock = clock

    async def take(self, actor: Actor, sha256: str, unverified: AsyncIterator[bytes]) -> Artifact:
        """Verify and store an artifact; one that is there already changes nothing.

        Args:
            actor: who brings it.
            sha256: 64 lower-case hex digits.
            unverified: its bytes in blocks.

        Raises:
            ArtifactTooLongError: step 1.
            ArtifactHashError: step 2.
            ProtocolError: steps 3 to 5.
        """
        content = await _read_all(unverified, sha256)
        # Signatures of megabytes take milliseconds: not on the event loop.
        artifact = await asyncio.to_thread(verify_artifact, content, sha256, self._keys)
        await self._store.put(sha256, content)
        await self._register(actor, artifact)
        return artifact

    async def _register(self, actor: Actor, artifact: Artifact) -> None:
        now = self._clock.now()
        async with self._unit_of_work() as work:
            if artifact.sha256 in await work.artifacts.find([artifact.sha256]):
                return
            await work.artifacts.add(artifact, by=actor.name, at=now)
            after: dict[str, JsonValue] = {"kind": str(artifact.kind), "length": artifact.length}
            await work.audit.add(actor, Change("artifact.add", artifact.sha256, after=after), at=now)
            await work.commit()

    async def describe_models(self) -> None:
        """Learn what is kept of models today from packages that an earlier version of the service has taken.

        One whose bytes are gone, or that today's keys do not verify, stays as it was: filters do not know its facts.
        """
        async with self._unit_of_work(read_only=True) as work:
            missing = await work.artifacts.undescribed(limit=MOST_DESCRIBED)
        for sha256 in missing:
            try:
                content = b"".join([block async for block in self.read(sha256, start=0, end=await self.length(sha256))])
                artifact = await asyncio.to_thread(verify_artifact, content, sha256, self._keys)
            except (UnknownArtifactError, ProtocolError) as error:
                _log.warning("model_not_described", sha256=sha256[:12], detail=str(error))
                continue
            async with self._unit_of_work() as work:
                await work.artifacts.describe(artifact)
                await work.commit()

    async def length(self, sha256: str) -> int:
        """Return an artifact's length in bytes.

        Raises:
            UnknownArtifactError: there is none of this hash.
        """
        length = await self._store.length(sha256)
        if length is None:
            raise UnknownArtifactError(f"artifact: expected a known SHA-256, found {sha256[:12]}…")
        return length

    def read(self, sha256: str, *, start: int, end: int) -> AsyncIterator[bytes]:
        """Yield the bytes from `start` to before `end`; the caller knows the length."""
        return self._store.read(sha256, start=start, end=end)


async def _read_all(unverified: AsyncIterator[bytes], sha256: str) -> bytes:
    content = bytearray()
    digest = hashlib.sha256()
    async for block in unverified:
        content += block
        digest.update(block)
        # Step 1: length.
        if len(content) > MAX_PACKAGE_BYTES:
            raise ArtifactTooLongError(f"artifact: expected at most {MAX_PACKAGE_BYTES} bytes, found more")
    # Step 2: hash.
    if digest.hexdigest() != sha256:
        raise ArtifactHashError(f"artifact: expected SHA-256 {sha256[:12]}…, found {digest.hexdigest()[:12]}…")
    return bytes(content)


def verify_artifact(unverified: bytes, sha256: str, keys: TrustedKeys) -> Artifact:
    """Verify bytes whose hash is known to be `sha256`: steps 3 to 5.

    Raises:
        ProtocolError: they are no artifact, no trusted key signed them, or the payload is malformed.
    """
    # Step 3: form.
    if unverified[:1] != b"{":
        return _package(unverified, sha256, keys)
    names = _names(unverified)
    if "payloadType" in names:
        take = _provenance if names["payloadType"] == PROVENANCE_PAYLOAD_TYPE else _golden
        return take(unverified, sha256, keys)
    if "bomFormat" in names:
        return _vex(unverified, sha256) if "vulnerabilities" in names else _bom(unverified, sha256)
    document = parse_document(unverified, ReleaseDocument, max_bytes=MAX_RELEASE_BYTES)
    return Artifact(sha256, len(unverified), ArtifactKind.RELEASE, document=document)


def _names(unverified: bytes) -> Mapping[str, object]:
    try:
        document: Mapping[str, object] = json.loads(unverified)
    except (ValueError, RecursionError):
        return {}
    return document


def _package(unverified: bytes, sha256: str, keys: TrustedKeys) -> Artifact:
    # Step 4: signature.
    is_system = False
    try:
        verified = verify_package(unverified, keys.package, kind=None)
    except SignatureError:
        verified = verify_package(unverified, keys.system, kind=None)
        is_system = True
    # Step 5: payload.
    payload = check_payload(verified)
    model = payload.card.facts if isinstance(payload, ModelPackage) else None
    return Artifact(sha256, len(unverified), ArtifactKind.IMAGE, image=verified.info, model=model, is_system=is_system)


def _bom(unverified: bytes, sha256: str) -> Artifact:
    component = read_bom(unverified).metadata.component
    digests = tuple(each.content for each in component.hashes if each.alg == "SHA-256")
    return Artifact(sha256, len(unverified), ArtifactKind.BOM, subject=component.bom_ref, digests=digests)


def _vex(unverified: bytes, sha256: str) -> Artifact:
    subject = read_vex(unverified).metadata.component.name
    return Artifact(sha256, len(unverified), ArtifactKind.VEX, subject=subject)


def _provenance(unverified: bytes, sha256: str, keys: TrustedKeys) -> Artifact:
    # Step 4: signature.
    provenance = verify_provenance(unverified, keys.package)
    digests = tuple(sorted(provenance.image_digests))
    return Artifact(sha256, len(unverified), ArtifactKind.PROVENANCE, subject=provenance.release, digests=digests)


def _golden(unverified: bytes, sha256: str, keys: TrustedKeys) -> Artifact:
    # Step 4: signature.
    vectors = verify_document(
        unverified, GOLDEN_PAYLOAD_TYPE, GoldenVectors, trusted_keys=keys.golden, max_bytes=MAX_DOCUMENT_BYTES
    )
    return Artifact(sha256, len(unverified), ArtifactKind.GOLDEN, component_id=vectors.component_id)
