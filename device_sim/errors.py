"""The base of every error that device_sim raises, and the leaves of the simulated hardware; a leaf names a rule."""

from typing_extensions import override

from protocol.messages import Cause


class DeviceSimError(Exception):
    """Base: a simulated device, its folder or its surroundings broke a rule."""


class FlashMisuseError(DeviceSimError):
    """A flash operation is misaligned, out of range, or writes into bytes that are not erased."""


class WornSectorError(DeviceSimError):
    """A sector of the flash no longer takes an erase."""


class PowerCutError(DeviceSimError):
    """The power failed; nothing runs until the device is opened again."""


class DeviceFolderError(DeviceSimError):
    """A device's folder lacks a file, or a file is not of the expected form."""


class StorageFullError(DeviceSimError):
    """Secure storage would hold more than it can read again."""


class ImageTooLargeError(DeviceSimError):
    """The image does not fit its home slot or the shared spare."""


class SpareStateError(DeviceSimError):
    """The shared spare is not in the state that the step needs, or belongs to another slot."""


class SpareContentError(DeviceSimError):
    """The bytes in the spare are not the ones that were announced, or arrive at the wrong place."""


class SecurityFloorError(DeviceSimError):
    """A fuse, a monotonic counter or the life cycle would fall, or an image is below its fuse."""


class ClockRollbackError(DeviceSimError):
    """A signed time lies below the device's floor."""


class ClockLeapError(DeviceSimError):
    """A signed time lies beyond every time that a device can live to see."""


class CoreLoadError(DeviceSimError):
    """A core cannot run the image: made for another core, not of the expected form, or over the memory budget."""


class IncomparableModelError(DeviceSimError):
    """A model cannot run in shadow beside the one that it is to replace."""


class CoreStoppedError(DeviceSimError):
    """The core runs no model."""


class IntercoreMessageError(DeviceSimError):
    """An intercore message is too long, too short, or not the one that has to follow."""


class BootStoppedError(DeviceSimError):
    """A stage of the measured boot refused the next one.

    Attributes:
        stage: slot of the image that was refused.
        expected: what the stage before it wanted.
        found: what is there.
    """

    def __init__(self, stage: str, *, expected: str, found: str) -> None:
        super().__init__(stage, expected, found)
        self.stage = stage
        self.expected = expected
        self.found = found

    @override
    def __str__(self) -> str:
        return f"{self.stage}: expected {self.expected}, found {self.found}"


class CoreFaultError(DeviceSimError):
    """A real-time core gave no answer: it hung, crashed, or could not run the model. The core has been reset.

    Attributes:
        cause: what an action report says of it.
    """

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
