"""Draft a release on what is in force: fetch what it needs, work out its way back."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tuf.api.metadata import TargetFile

from pki.repository import RepositoryInForce
from protocol.geometry import Slot
from protocol.updates import MustPass, ReleaseDocument, image_custom
from service.cli.client import JsonObject
from service.cli.offered import OfferedImage
from service.cli.options import one_id
from service.cli.publishing import (
    NewRelease,
    ReleaseDocuments,
    WayBack,
    new_names,
    propose,
    propose_images,
    release_document,
    security_counters,
)
from service.cli.release_documents import way_back_documents
from service.cli.settling import Draft, Session
from service.cli.way_back import EarlierReleases, earlier_image
from service.cli.working_copy import WorkingCopyError, release_targets


def propose_release(session: Session, release: NewRelease, *, way_back: bool = False) -> Draft:
    """Draft a release.

    Raises:
        ReleaseRefusedError: two images for one slot, or a name that is taken.
        WayBackError: there is no way back.
        PkiError: what is in force does not verify, or a target would change.
        CliError: the service does not answer.
    """
    names = [*new_names(release.offered, release.documents), *(target.path for target in release.listed)]
    in_force = session.working_copy.fetch(session.client, now=session.now, names=names)
    release = replace(release, after=_after(session, in_force, release))
    if not way_back:
        return propose(in_force, release, now=session.now)
    back = _way_back(session, in_force, release, names)
    names += new_names((), back.documents)
    in_force = session.working_copy.fetch(session.client, now=session.now, names=names)
    return propose(in_force, release, now=session.now, way_back=back)


def propose_team_images(
    session: Session, images: Sequence[OfferedImage], *, role: str, documents: ReleaseDocuments
) -> Draft:
    """Draft the listing of images in a team's role.

    Raises:
        DelegationError: the team may not list them.
        PkiError: what is in force does not verify, or a target would change.
        CliError: the service does not answer.
    """
    names = new_names(images, documents)
    in_force = session.working_copy.fetch(session.client, now=session.now, names=names, roles=[role])
    return propose_images(in_force, images, role=role, documents=documents, now=session.now)


def images_in_force(session: Session, image_ids: Sequence[str]) -> list[TargetFile]:
    """Return the targets of images in force; the service says where to look, the metadata says what they are.

    Raises:
        WorkingCopyError: an image is not in force under the name that the service says.
        CliError: the service does not answer, or knows no such image.
    """
    if not image_ids:
        return []
    names = [str(_image(session, image_id)["target"]) for image_id in image_ids]
    in_force = session.working_copy.fetch(session.client, now=session.now, names=names)
    found = {name: in_force.find(name) for name in names}
    for name, image_id in zip(names, image_ids, strict=True):
        if found[name] is None or image_id not in name:
            raise WorkingCopyError(f"image {image_id}: expected it in force, found {name} is not, or is another")
    return [target for target in found.values() if target is not None]


def _image(session: Session, image_id: str) -> JsonObject:
    return session.client.get(f"/images/{one_id(image_id)}")


def _after(session: Session, in_force: RepositoryInForce, release: NewRelease) -> Mapping[Slot, MustPass]:
    """Return by slot the newest release in force of the component that devices must pass through before this one."""
    if release.factory:
        return {}
    documents = [
        session.working_copy.fetch_release(session.client, target) for target in release_targets(in_force.targets)
    ]
    must = [document for document in documents if document.must_pass]
    names = [image.target for document in must for image in document.images.values()]
    known = session.working_copy.fetch(session.client, now=session.now, names=names) if names else in_force
    found: dict[Slot, MustPass] = {}
    for slot, build in release.builds.items():
        earlier = [_must_pass(known, document, slot) for document in must if slot in document.images]
        same = [each for each in earlier if each.component_id == build.component_id]
        if same and same[0].precedes(build):
            found[slot] = same[0]
    return found


def _must_pass(in_force: RepositoryInForce, document: ReleaseDocument, slot: Slot) -> MustPass:
    image = document.images[slot]
    target = in_force.find(image.target)
    if target is None:
        raise WorkingCopyError(f"release {document.name}: expected {image.target} in force, found nothing")
    custom = image_custom(target)
    return MustPass(
        release=document.name,
        sha256=image.sha256,
        component_id=custom.component_id,
        name=custom.name,
        built_at=custom.built_at,
    )


def _way_back(session: Session, in_force: RepositoryInForce, release: NewRelease, names: Sequence[str]) -> WayBack:
    forward = release_document(in_force, release)
    documents = [
        session.working_copy.fetch_release(session.client, target) for target in release_targets(in_force.targets)
    ]
    earlier = [image.target for slot in forward.images if (image := earlier_image(documents, slot))]
    known = session.working_copy.fetch(session.client, now=session.now, names=[*names, *earlier])
    back = EarlierReleases(documents, known).way_back(forward, security_counters(release))
    said = way_back_documents(session, back)
    return WayBack(back.model_copy(update={"documents": said.of_release}), said)
