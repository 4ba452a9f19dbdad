"""Why an update does not go on. Each leaf names the broken rule and the cause that the action's report carries."""

from typing import ClassVar

from device_sim.errors import DeviceSimError
from protocol.messages import Cause


class UpdateError(DeviceSimError):
    """Base: the update must not or can not go on.

    Attributes:
        cause: for the action's report.
        is_attack: whether the version manifest shows it as an attack indicator.
    """

    cause: ClassVar[Cause] = Cause.VERIFY
    is_attack: ClassVar[bool] = True


class MetadataRefusedError(UpdateError):
    """Metadata is not signed as its root says, expired, older than before, or too long."""


class WrongDeviceError(UpdateError):
    """The Director's metadata is for another device, or uses what a device must not accept."""


class DisagreementError(UpdateError):
    """Director and Image repository do not agree, or a counter would fall."""


class TargetRefusedError(UpdateError):
    """A target's bytes are not those that the metadata promised."""


class GoldenVectorsRefusedError(UpdateError):
    """The golden vectors are not signed by a golden key, or belong to another component."""


class PackageRefusedError(UpdateError):
    """The package is not signed by a package key, or is another image than the metadata says."""


class EndlessTargetError(UpdateError):
    """The service sends more than the metadata says."""

    cause = Cause.DOWNLOAD


class SlowTargetError(UpdateError):
    """The service sends so slowly that the device would never finish."""

    cause = Cause.DOWNLOAD


class TargetMissingError(UpdateError):
    """The service does not have the target."""

    cause = Cause.DOWNLOAD
    is_attack = False


class NoRoomError(UpdateError):
    """The image does not fit its home slot or the spare, or the spare is in use."""

    cause = Cause.FLASH
    is_attack = False


class BootRefusedError(UpdateError):
    """The boot chain or the core does not take the image."""

    cause = Cause.BOOT
    is_attack = False
