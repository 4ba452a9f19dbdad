"""The packages that devices are made with: those of the factory release, with the OS that a device's revision names."""

from collections.abc import Iterator, Mapping
from datetime import datetime

from pki.repository import RepositoryInForce
from protocol.geometry import Slot
from protocol.updates import ReleaseDocument, image_custom
from service.cli.working_copy import WorkingCopy, WorkingCopyError, find_release, release_targets

FACTORY_RELEASE = "factory"


class FactoryPackages:
    """Packages from an operator's working copy.

    Args:
        working_copy: of the manufacturer.
        now: UTC, aware.

    Raises:
        WorkingCopyError: there is no factory release in force, or an image of it is missing.
    """

    def __init__(self, working_copy: WorkingCopy, *, now: datetime) -> None:
        self._working_copy = working_copy
        self._in_force = working_copy.latest(now=now)
        images = factory_release(self._in_force, working_copy).images
        self._usual = {slot: self._read(image.target) for slot, image in images.items()}

    def with_os(self, version: str | None) -> Mapping[Slot, bytes]:
        """Return the packages for a device by its slots.

        Args:
            version: of its OS, as a reference release lists it; None is the factory release's.

        Raises:
            WorkingCopyError: no reference release in force lists such an OS.
        """
        if version is None:
            return self._usual
        listed = dict(self._systems())
        if version not in listed:
            found = ", ".join(sorted(listed)) or "none"
            raise WorkingCopyError(
                f"working copy: expected an OS of version {version} in a reference release, found {found}; "
                "make it by `image create --kind os` and `release create --reference`"
            )
        return {**self._usual, Slot.OS: self._read(listed[version])}

    def _systems(self) -> Iterator[tuple[str, str]]:
        """Give version and target of every OS that a reference release lists; of one version the newest comes last."""
        for target in reversed(release_targets(self._in_force.targets)):
            if self._working_copy.find(target.path) is None:  # of another operator
                continue
            release = self._working_copy.release(target)
            image = release.images.get(Slot.OS) if release.factory else None
            listed = None if image is None else self._in_force.find(image.target)
            if listed is not None:
                yield image_custom(listed).name.rpartition("@")[2], listed.path

    def _read(self, name: str) -> bytes:
        return self._working_copy.read_listed(self._in_force, name)


def has_factory_release(in_force: RepositoryInForce) -> bool:
    """Say whether there is a release that devices are made with."""
    return find_release(in_force.targets, FACTORY_RELEASE) is not None


def factory_release(in_force: RepositoryInForce, working_copy: WorkingCopy) -> ReleaseDocument:
    """Return the release that devices are made with.

    Raises:
        WorkingCopyError: there is none in force, or its document is missing.
    """
    target = find_release(in_force.targets, FACTORY_RELEASE)
    if target is None:
        raise WorkingCopyError("working copy: expected a factory release, found none; make it by `factory images`")
    return working_copy.release(target)
