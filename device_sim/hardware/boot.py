"""The measured boot: each stage verifies the next one's image package and records its SHA-256."""

from collections.abc import Mapping
from dataclasses import dataclass

from device_sim.errors import DeviceSimError
from protocol.evidence import SoftwareComponent
from protocol.geometry import Core, Slot


@dataclass(frozen=True, slots=True)
class Revert:
    """An image on trial that was dropped.

    Attributes:
        slot: where it was to live.
        digest: SHA-256 of the package, 64 hex digits.
        reason: why.
    """

    slot: Slot
    digest: str
    reason: str


@dataclass(frozen=True, slots=True)
class BootReport:
    """What a boot that got through found.

    Attributes:
        components: what was measured, in boot order.
        is_claimed: whether a voucher was verified; without one nothing runs but the OS.
        voucher_refusal: why the voucher that is there was not taken, or an empty string.
        stopped_cores: real-time cores that do not run, and why: their model was refused. The sibling runs.
        reverted: the image on trial that this boot dropped, or None.
    """

    components: tuple[SoftwareComponent, ...]
    is_claimed: bool
    voucher_refusal: str
    stopped_cores: Mapping[Core, DeviceSimError]
    reverted: Revert | None
