"""What device and service say to each other of learned states, as JSON documents.

Device API, base path /device/v1, LDevID of full access:

    POST /learned            LearnedUpload → 204; 429 with Retry-After where it comes too often
    GET  /learned            → LearnedOrders: what an operator wants done, oldest first
    POST /learned/outcome    LearnedOutcome → 204

The command `learned-orders`, whose payload is empty, tells a device that is connected over MQTT to ask.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from protocol.document import Document
from protocol.geometry import Core, ImageKind, slot_for
from protocol.learned_state import MAX_STATE_BYTES
from protocol.messages import Detail
from protocol.model import Guid
from protocol.voucher import Base64Bytes

LEARNED_ORDERS = "learned-orders"
MAX_ORDERS = 16  # of one answer
MAX_UPLOAD_BYTES = 4 * 1024  # of the JSON document
MAX_ORDERS_BYTES = 64 * 1024


def _check_core(core: Core) -> Core:
    if slot_for(core, ImageKind.MODEL) is None:
        raise ValueError(f"expected a core that runs models, found {core}")
    return core


LearningCore = Annotated[Core, AfterValidator(_check_core)]
StateBytes = Annotated[Base64Bytes, Field(min_length=1, max_length=MAX_STATE_BYTES)]
"""A state as `protocol.learned_state` lays it out."""


class LearnedUpload(Document):
    """What a core learned, for the service to keep."""

    core: LearningCore
    state: StateBytes


class OrderKind(StrEnum):
    """What is to be done with the learned state of a core."""

    RESTORE = "restore"  # take this one in its place
    RESET = "reset"  # forget it and learn anew


class LearnedOrder(Document):
    """An operator's word about one core's state; the device does it once and says how it went.

    Attributes:
        state: what to restore; None in a reset.
    """

    order_id: Guid
    core: LearningCore
    kind: OrderKind
    state: StateBytes | None = None

    @model_validator(mode="after")
    def _check_state(self) -> Self:
        if (self.state is not None) != (self.kind is OrderKind.RESTORE):
            raise ValueError(f"state: expected one in a restore alone, found another in a {self.kind}")
        return self


class LearnedOrders(Document):
    """What waits for a device."""

    orders: Annotated[tuple[LearnedOrder, ...], Field(max_length=MAX_ORDERS)]


class LearnedOutcome(Document):
    """How an order went.

    Attributes:
        is_done: False: the device refused it, for good.
        detail: what was expected and found then.
    """

    order_id: Guid
    is_done: bool
    detail: Detail = ""
