"""Publish a release: targets for its images, golden vectors and release document, signed here and taken by the service.

Order, so that an interruption leaves nothing half done: the files go to the working copy, then to the service, where
nothing refers to them yet; then the metadata, which the service takes as a whole or not at all.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tuf.api.metadata import TargetFile, Targets

from pki.keystore import KeyStore
from pki.metadata import add_signature, content_target
from pki.next_versions import next_release_counter, next_targets
from pki.online import TARGETS_METADATA_LIFETIME
from pki.repository import Differences, RepositoryInForce, differences, verify_targets
from pki.roles import OfflineKey
from protocol.document import canonical_json
from protocol.image import digest_of
from protocol.updates import (
    ImageCustom,
    ReleaseDocument,
    ReleaseImage,
    golden_target_name,
    image_target_name,
    release_target_name,
)
from service.cli.client import ApiClient, JsonObject
from service.cli.errors import BadArgumentError, CliError
from service.cli.offered import OfferedImage
from service.cli.working_copy import WorkingCopy, find_release

_RELEASE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class ReleaseRefusedError(CliError):
    """The images make no release."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A signed next version of the Image repository.

    Attributes:
        document: the release.
        release_target: target name of its document.
        contents: every new target's bytes, by target name.
        targets_metadata: the signed targets.json.
        version: of it.
        differences: against the metadata in force.
    """

    document: ReleaseDocument
    release_target: str
    contents: Mapping[str, bytes]
    targets_metadata: bytes
    version: int
    differences: Differences


def propose(
    in_force: RepositoryInForce,
    images: Sequence[OfferedImage],
    keys: KeyStore,
    *,
    name: str,
    factory: bool,
    now: datetime,
) -> Proposal:
    """Make and sign a release on top of the metadata in force.

    Raises:
        ReleaseRefusedError: two images for one slot, or a name that is taken.
        PkiError: the image-targets key is not the one that the root names, or cannot be used.
    """
    _refuse_taken_name(in_force.targets, name)
    document = _document(images, name=name, counter=next_release_counter(in_force.targets), factory=factory)
    release_target = release_target_name(document.counter, name)
    contents = _contents(images) | {release_target: canonical_json(document)}
    unsigned = next_targets(
        in_force,
        [*_image_targets(images), content_target(release_target, contents[release_target])],
        expires=now + TARGETS_METADATA_LIFETIME,
    )
    metadata = add_signature(unsigned["targets"], keys.load(OfflineKey.IMAGE_TARGETS))
    version = in_force.targets.version + 1
    proposed = verify_targets(metadata, root=in_force.root, now=now, version=version)
    changes = differences(in_force.targets, proposed)
    return Proposal(document, release_target, contents, metadata, version, changes)


def publish(client: ApiClient, working_copy: WorkingCopy, proposal: Proposal) -> JsonObject:
    """Hand a proposal to the service; returns the release as the service knows it.

    Raises:
        CliError: the service does not answer, or refuses.
    """
    for target, content in proposal.contents.items():
        working_copy.keep(target, content)
        _upload(client, content)
    body = {
        "name": proposal.document.name,
        "targets_metadata": base64.b64encode(proposal.targets_metadata).decode(),
        "release_target": proposal.release_target,
    }
    release = client.post("/releases", body)
    working_copy.keep_targets_metadata(proposal.version, proposal.targets_metadata)
    return release


def _refuse_taken_name(targets: Targets, name: str) -> None:
    taken = find_release(targets, name)
    if taken is not None:
        raise ReleaseRefusedError(f"release name: expected one that is not taken, found {taken.path}")


def _document(images: Sequence[OfferedImage], *, name: str, counter: int, factory: bool) -> ReleaseDocument:
    slots = [offered.slot for offered in images]
    twice = sorted({slot.value for slot in slots if slots.count(slot) > 1})
    if twice:
        raise ReleaseRefusedError(f"release {name}: expected one image per slot, found two for {', '.join(twice)}")
    if not _RELEASE_NAME.fullmatch(name):
        raise BadArgumentError(f"release name: expected 1 to 64 letters, digits, '.', '_' or '-', found {name[:80]!r}")
    return ReleaseDocument(
        name=name,
        counter=counter,
        images={
            offered.slot: ReleaseImage(
                target=_image_target(offered),
                sha256=offered.image.digest,
                length=len(offered.package),
            )
            for offered in images
        },
        factory=factory,
    )


def _contents(images: Sequence[OfferedImage]) -> dict[str, bytes]:
    packages = {_image_target(offered): offered.package for offered in images}
    vectors = {_golden_target(offered): offered.golden for offered in images if offered.golden is not None}
    return packages | vectors


def _image_targets(images: Sequence[OfferedImage]) -> list[TargetFile]:
    vectors = [content_target(_golden_target(offered), offered.golden) for offered in images if offered.golden]
    packages = [
        content_target(_image_target(offered), offered.package, _custom(offered).model_dump(mode="json"))
        for offered in images
    ]
    unique = {target.path: target for target in vectors}
    return [*packages, *unique.values()]


def _custom(offered: OfferedImage) -> ImageCustom:
    info = offered.image.info
    return ImageCustom(
        slot_kind=offered.slot.kind,
        hardware_ids=(offered.slot.core.hardware_id,),
        component_id=info.component_id,
        image_id=info.image_id,
        name=info.name,
        security_counter=info.security_version,
        built_at=info.built_at,
        golden=None if offered.golden is None else _golden_target(offered),
        requires=offered.requires,
    )


def _image_target(offered: OfferedImage) -> str:
    return image_target_name(offered.slot, offered.image.info.image_id)


def _golden_target(offered: OfferedImage) -> str:
    return golden_target_name(offered.image.info.component_id, digest_of(offered.golden or b""))


def _upload(client: ApiClient, content: bytes) -> None:
    path = f"/artifacts/{digest_of(content)}"
    if not client.has(path):
        client.put_bytes(path, content)
