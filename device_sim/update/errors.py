"""Why an update does not go on.

Each leaf names the broken rule, the cause that the action's report carries, and the attack that it indicates, if any.
"""

from typing import ClassVar

from device_sim.errors import DeviceSimError
from protocol.messages import Attack, Cause


class UpdateError(DeviceSimError):
    """Base: the update must not or can not go on.

    Attributes:
        cause: for the action's report.
        attack: what the report and the version manifest show; None where it is no sign of one.
    """

    cause: ClassVar[Cause] = Cause.VERIFY
    attack: ClassVar[Attack | None] = Attack.ARBITRARY_SOFTWARE

    @property
    def rule(self) -> str:
        """The broken rule, as reports name it."""
        return type(self).__name__


class MetadataRefusedError(UpdateError):
    """Metadata is malformed, or not signed as its root says."""


class MetadataExpiredError(MetadataRefusedError):
    """The newest metadata that the service shows has expired."""

    attack = Attack.FREEZE


class MetadataRollbackError(MetadataRefusedError):
    """A root, timestamp or snapshot is not of the version that must come, or lists what is older than before."""

    attack = Attack.ROLLBACK


class MetadataMixError(MetadataRefusedError):
    """Files that are signed each, but never were in force together."""

    attack = Attack.MIX_AND_MATCH


class EndlessMetadataError(MetadataRefusedError):
    """The service sends more metadata than any file may hold."""

    attack = Attack.ENDLESS_DATA


class MetadataNotKeptError(MetadataRefusedError):
    """Signed metadata is more than the device can keep."""

    attack = Attack.ENDLESS_DATA


class WrongDeviceError(UpdateError):
    """The Director's metadata is for another device, or for none."""

    attack = Attack.WRONG_DEVICE


class DirectorFormError(UpdateError):
    """The Director's targets delegate, or name a slot twice."""


class DisagreementError(UpdateError):
    """Director and Image repository do not agree."""


class WrongHardwareError(UpdateError):
    """The image is for other hardware, or for another slot."""

    attack = Attack.WRONG_HARDWARE


class OlderImageError(UpdateError):
    """A counter would fall, or an older image comes without a release that goes back."""

    attack = Attack.ROLLBACK


class JumpedReleaseError(UpdateError):
    """A release that the device must pass through would be jumped over."""

    attack = Attack.MIX_AND_MATCH


class MixedReleasesError(UpdateError):
    """The Director pairs images that no release holds together."""

    attack = Attack.MIX_AND_MATCH


class PartialBundleError(UpdateError):
    """The Director leaves out images of the release."""

    attack = Attack.PARTIAL_BUNDLE


class RequirementError(UpdateError):
    """What would run together lacks something."""

    cause = Cause.REQUIREMENT
    attack = None


class ShadowRefusedError(UpdateError):
    """The release cannot be compared in shadow with what it is to replace."""

    cause = Cause.REQUIREMENT
    attack = None


class DevelopmentDeviceError(UpdateError):
    """The device has the AppDevelopment capability, so it takes nothing over the air."""

    attack = None


class TargetRefusedError(UpdateError):
    """A target's bytes are not those that the metadata promised."""


class GoldenVectorsRefusedError(UpdateError):
    """The golden vectors are not signed by a golden key, or belong to another component."""


class PackageRefusedError(UpdateError):
    """The package is not signed by a package key, or is another image than the metadata says."""


class EndlessTargetError(UpdateError):
    """The service sends more than the metadata says."""

    cause = Cause.DOWNLOAD
    attack = Attack.ENDLESS_DATA


class SlowTargetError(UpdateError):
    """The service sends so slowly that the device would never finish."""

    cause = Cause.DOWNLOAD
    attack = Attack.SLOW_RETRIEVAL


class TargetMissingError(UpdateError):
    """The service does not have the target."""

    cause = Cause.DOWNLOAD
    attack = None


class NoRoomError(UpdateError):
    """The image does not fit its home slot or the spare, or the spare is in use."""

    cause = Cause.FLASH
    attack = None


class BootRefusedError(UpdateError):
    """The boot chain or the core does not take the image."""

    cause = Cause.BOOT
    attack = None
