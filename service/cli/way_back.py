"""The way back from a release: the release that undoes it.

It is signed together with the release, so that the service can take it without an offline key. In each slot it brings
what was there before: the image of the last release that is itself no way back, or the factory's. It says that it goes
back from the new image, because otherwise no device would take an older one.

A release may also say itself what it goes back from: any image, also one that no release lists, such as one that
somebody brought over a cable into a device that is to be healed.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pki.repository import RepositoryInForce
from protocol.geometry import Slot
from protocol.updates import ReleaseDocument, ReleaseImage, image_custom
from service.cli.errors import BadArgumentError, CliError

SUFFIX = "-way-back"
MAX_NAME_CHARACTERS = 64 - len(SUFFIX)
_SHA256 = re.compile(r"[0-9a-f]{64}")


class WayBackError(CliError):
    """There is no way back from the release."""


@dataclass(frozen=True, slots=True)
class EarlierReleases:
    """Where the way back leads.

    Attributes:
        documents: release documents in force, newest first.
        in_force: verified, with the roles of their images.
    """

    documents: Sequence[ReleaseDocument]
    in_force: RepositoryInForce

    def way_back(self, release: ReleaseDocument, counters: Mapping[Slot, int]) -> ReleaseDocument:
        """Make the release that undoes another.

        Args:
            release: the one to undo.
            counters: security counters of its images, by slot.

        Raises:
            WayBackError: a slot had no image before, the release changes none, or a security counter rises.
        """
        if len(release.name) > MAX_NAME_CHARACTERS:
            raise WayBackError(
                f"release name: expected at most {MAX_NAME_CHARACTERS} characters beside a way back, "
                f"found {len(release.name)}"
            )
        images = dict(self._images(release, counters))
        if not images:
            raise WayBackError(f"release {release.name}: expected images that were not there before, found none")
        return ReleaseDocument(
            name=release.name + SUFFIX,
            counter=release.counter + 1,
            images=images,
            goes_back={slot: (release.images[slot].sha256,) for slot in images},
            way_back_of=release.name,
        )

    def _images(self, release: ReleaseDocument, counters: Mapping[Slot, int]) -> Iterator[tuple[Slot, ReleaseImage]]:
        for slot, image in release.images.items():
            earlier = earlier_image(self.documents, slot)
            if earlier is None:
                raise WayBackError(f"slot {slot}: expected an earlier image to go back to, found none")
            if earlier.sha256 != image.sha256:
                self._check_counter(slot, earlier, counters[slot])
                yield slot, earlier

    def _check_counter(self, slot: Slot, earlier: ReleaseImage, counter: int) -> None:
        target = self.in_force.find(earlier.target)
        if target is None:
            raise WayBackError(f"slot {slot}: expected {earlier.target} in force, found nothing")
        before = image_custom(target)
        if before.security_counter < counter:
            raise WayBackError(
                f"slot {slot}: expected a security counter of at most {before.security_counter}, that of "
                f"{before.name}, found {counter}: once the new image runs, the fuses refuse every older one"
            )


def earlier_image(documents: Sequence[ReleaseDocument], slot: Slot) -> ReleaseImage | None:
    """Return the image that the last release brought into a slot, ways back aside.

    Args:
        documents: newest first.
        slot: where.
    """
    brought = (each.images[slot] for each in documents if each.way_back_of is None and slot in each.images)
    return next(brought, None)


def parse_goes_back(texts: Sequence[str]) -> dict[Slot, tuple[str, ...]]:
    """Parse what a release goes back from.

    Args:
        texts: SLOT=SHA256 of a package, hex.

    Returns:
        by slot, each digest once.

    Raises:
        BadArgumentError: another form.
    """
    goes_back: dict[Slot, tuple[str, ...]] = {}
    for text in texts:
        slot_text, _, digest = text.partition("=")
        slot = next((slot for slot in Slot if slot == slot_text), None)
        if slot is None or not _SHA256.fullmatch(digest):
            raise BadArgumentError(f"--goes-back: expected SLOT=SHA256, such as m4-0/model=6fa1…, found {text[:80]!r}")
        goes_back[slot] = tuple(dict.fromkeys((*goes_back.get(slot, ()), digest)))
    return goes_back
