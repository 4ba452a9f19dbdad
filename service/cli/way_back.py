"""The way back from a release: the release that undoes it.

It is signed together with the release, so that the service can take it without an offline key. In each slot it brings
what was there before: the image of the last release that is itself no way back, or the factory's. It says that it goes
back from the new image, because otherwise no device would take an older one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pki.repository import RepositoryInForce
from protocol.geometry import Slot
from protocol.updates import ReleaseDocument, ReleaseImage, image_custom
from service.cli.errors import CliError

SUFFIX = "-way-back"
MAX_NAME_CHARACTERS = 64 - len(SUFFIX)


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
