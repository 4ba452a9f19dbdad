"""The shared spare and what it is used for."""

from dataclasses import dataclass
from enum import IntEnum

from protocol.geometry import Slot


class SpareState(IntEnum):
    """What the spare is used for."""

    EMPTY = 0  # its bytes mean nothing
    FILLING = 1  # an image is being written, resumably
    TRIAL = 2  # the slot's core runs from it, unconfirmed: the next boot reverts
    CONFIRMED = 3  # on its way home: the next boot finishes the copy


@dataclass(frozen=True, slots=True)
class Spare:
    """The spare and the image in it.

    Attributes:
        state: what it is used for.
        slot: the slot that the image is for; None when empty.
        digest: SHA-256 of the package, 64 hex digits, or an empty string.
        length: of the package, bytes.
    """

    state: SpareState = SpareState.EMPTY
    slot: Slot | None = None
    digest: str = ""
    length: int = 0
