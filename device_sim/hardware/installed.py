"""What a device says of the images that it has confirmed."""

from dataclasses import dataclass
from datetime import datetime

from protocol.geometry import Slot
from protocol.versions import Build


@dataclass(frozen=True, slots=True)
class InstalledImage:
    """What a slot runs when nothing is on trial.

    Attributes:
        slot: where.
        digest: SHA-256 of the package, 64 hex digits.
        name: `name@version`.
        security_version: of the image.
        component_id: GUID.
        image_id: GUID of this one build.
        built_at: UTC, aware.
    """

    slot: Slot
    digest: str
    name: str
    security_version: int
    component_id: str
    image_id: str
    built_at: datetime

    @property
    def build(self) -> Build:
        """The build that it is; what it requires is not in the image."""
        return Build(self.digest, self.component_id, self.name, self.built_at)
