"""Products and their device groups, as Azure Sphere has them."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum

from service.domain.attestation_policy import AttestationPolicy
from service.domain.errors import InvalidError, NotFoundError


class UnknownProductError(NotFoundError):
    """No product has this id or name."""


class UnknownGroupError(NotFoundError):
    """No device group has this id or name."""


class AmbiguousGroupError(InvalidError):
    """Several products have a device group of this name."""


class OsFeed(StrEnum):
    """Which OS releases a group gets."""

    RETAIL = "Retail"
    RETAIL_EVAL = "RetailEval"  # two weeks before Retail


class UpdatePolicy(StrEnum):
    """What a group takes over the air."""

    UPDATE_ALL = "UpdateAll"
    NO_APPLICATION_UPDATES = "No3rdPartyAppUpdates"


class DataBoundary(StrEnum):
    """Where crash data may go."""

    NONE = "None"
    EU = "EU"


@dataclass(frozen=True, slots=True)
class Product:
    """What is made and sold; owns device groups.

    Attributes:
        product_id: GUID.
        version: rises with each change; the ETag.
        est: whether its devices may enrol by EST.
    """

    product_id: str
    name: str
    description: str
    created_at: datetime
    version: int = 1
    est: bool = True


@dataclass(frozen=True, slots=True)
class GroupPolicy:
    """What the devices of a group take, and what they must show to be let in."""

    os_feed: OsFeed = OsFeed.RETAIL
    update_policy: UpdatePolicy = UpdatePolicy.UPDATE_ALL
    allow_crash_dumps: bool = False
    data_boundary: DataBoundary = DataBoundary.NONE
    attestation: AttestationPolicy = field(default_factory=AttestationPolicy)


@dataclass(frozen=True, slots=True)
class DeviceGroup:
    """Devices of a product that are treated alike.

    Attributes:
        group_id: GUID.
        product_name: name of the product that owns it, for people to read.
        version: rises with each change; the ETag.
    """

    group_id: str
    product_id: str
    product_name: str
    name: str
    description: str
    policy: GroupPolicy
    created_at: datetime
    version: int = 1

    @property
    def takes_updates(self) -> bool:
        """Whether releases of applications, firmware and models reach the group."""
        return self.policy.update_policy is UpdatePolicy.UPDATE_ALL


_EVALUATION = GroupPolicy(os_feed=OsFeed.RETAIL_EVAL)
# Names and policies of the groups that a new product gets (Azure Sphere: default device groups).
DEFAULT_GROUPS = (
    ("Development", replace(GroupPolicy(), update_policy=UpdatePolicy.NO_APPLICATION_UPDATES)),
    ("Field Test", GroupPolicy()),
    ("Production", GroupPolicy()),
    ("Field Test OS Evaluation", _EVALUATION),
    ("Production OS Evaluation", _EVALUATION),
)
