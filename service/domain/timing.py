"""What a plan says of when a device gets its release: windows, a disruption budget, and how far its user may wait."""

from dataclasses import dataclass, field
from datetime import timedelta

from service.domain.membership import InvalidPlanError
from service.domain.windows import Maintenance


@dataclass(frozen=True, slots=True)
class Budget:
    """How many devices with the same value of an attribute may be at an update at once.

    Attributes:
        group_by: name of the attribute.
        devices: how many, or None for a share.
        percent: of the devices with that value, or None.
    """

    group_by: str
    devices: int | None = 1
    percent: int | None = None

    def __post_init__(self) -> None:
        if (self.devices is None) == (self.percent is None):
            raise InvalidPlanError("disruption: expected either a number of devices or a share, found both or none")

    def most(self, members: int) -> int:
        """Return how many of so many devices may be at it; never none, or nobody would get anywhere."""
        return self.devices if self.devices is not None else max(1, members * (self.percent or 0) // 100)


@dataclass(frozen=True, slots=True)
class DeferralLimits:
    """How far a device's user may put an update off: so often, and for so long at once."""

    most: int
    longest: timedelta


@dataclass(frozen=True, slots=True)
class Timing:
    """The defaults set no limit, and let nobody put an update off.

    Attributes:
        forced: the plan says that neither windows nor deferral hold; it has none of them here.
    """

    maintenance: Maintenance = field(default_factory=Maintenance)
    budget: Budget | None = None
    deferral: DeferralLimits | None = None
    forced: bool = False
