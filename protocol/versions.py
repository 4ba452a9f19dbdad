"""Versions of images: which of two is the older, and what images that run together require of one another.

An image's name is `name@version`; versions are compared as PEP 440 says, so 2.10.0 comes after 2.9.1. A requirement
names another image and the versions of it that will do: `{"telemetry-app": ">=2.1"}`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import Version
from pydantic import AfterValidator, Field

from protocol.geometry import Slot

MAX_REQUIREMENTS = 16


def _check_specifier(value: str) -> str:
    try:
        SpecifierSet(value)
    except InvalidSpecifier as error:
        raise ValueError("expected versions such as >=2.1,<3, found another text") from error
    return value


ImageName = Annotated[str, Field(min_length=1, max_length=31, pattern=r"^[A-Za-z0-9._-]+$")]
VersionSpecifier = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_check_specifier)]
Requirements = Annotated[Mapping[ImageName, VersionSpecifier], Field(max_length=MAX_REQUIREMENTS)]
"""Name of another image → versions of it that will do."""


@dataclass(frozen=True, slots=True)
class Build:
    """One build of an image.

    Attributes:
        sha256: of the package, hex.
        component_id: GUID of what it is.
        name: `name@version`.
        built_at: UTC, aware; None where nobody said.
        requires: of the images beside it.
    """

    sha256: str
    component_id: str
    name: str
    built_at: datetime | None = None
    requires: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> Version | None:
        """Its version, or None if the name has none that can be compared."""
        try:
            return Version(self.name.partition("@")[2])
        except ValueError:  # InvalidVersion, or more digits than Python turns into a number
            return None


def is_older(offered: Build, installed: Build) -> bool:
    """Say whether an image would take the place of a newer one of the same component.

    The version decides; where it is the same or cannot be compared, the time of the build does.
    """
    if offered.component_id != installed.component_id or offered.sha256 == installed.sha256:
        return False
    before, after = installed.version, offered.version
    if before is not None and after is not None and before != after:
        return after < before
    return offered.built_at is not None and installed.built_at is not None and offered.built_at < installed.built_at


def unmet_requirements(together: Mapping[Slot, Build]) -> Iterator[str]:
    """Yield what images that are to run together lack: expected and found, one text per requirement.

    Args:
        together: every image that the device will run.
    """
    for slot, build in together.items():
        for name, wanted in sorted(build.requires.items()):
            found = [other.name for other in together.values() if other.name.partition("@")[0] == name]
            if not any(satisfies(other, wanted) for other in found):
                yield f"{slot}, {build.name}: expected {name} {wanted}, found {', '.join(found) or 'none'}"


def satisfies(name: str, wanted: str) -> bool:
    """Say whether `name@version` is of the versions that are wanted."""
    try:
        return SpecifierSet(wanted).contains(Version(name.partition("@")[2]), prereleases=True)
    except ValueError:  # InvalidSpecifier, InvalidVersion, or more digits than Python turns into a number
        return False
