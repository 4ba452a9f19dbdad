"""What a unit of work stores of patches."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from protocol.geometry import Slot


class DeltaState(StrEnum):
    """What became of a patch."""

    QUEUED = "queued"  # to be made
    OFFERED = "offered"  # signed, devices may take it
    TOO_LARGE = "too-large"  # the full image is the better way
    FAILED = "failed"  # none can be made of these images
    SUPERSEDED = "superseded"  # newer ones took its place; not made again
    WITHDRAWN = "withdrawn"  # nobody needs it; forgotten once its bytes are gone


@dataclass(frozen=True, slots=True)
class Delta:
    """A patch from one image to another.

    Attributes:
        from_sha256: of the image that devices have.
        to_sha256: of the image that it makes.
        full_length: of that image, bytes.
        reason: of its state, in words.
        created_at: when it was queued, UTC, aware.
        updated_at: when its state changed, or it was last tried, UTC, aware.
        format: of the patch; empty where there is none.
        patch_sha256: of bytes that may be in the store; None where there are none.
        patch_length: bytes; of one that is too large, too.
    """

    from_sha256: str
    to_sha256: str
    full_length: int
    created_at: datetime
    updated_at: datetime
    state: DeltaState = DeltaState.QUEUED
    reason: str = ""
    format: str = ""
    patch_sha256: str | None = None
    patch_length: int | None = None

    @property
    def percent(self) -> float | None:
        """Its size in percent of the full image."""
        return None if self.patch_length is None else 100 * self.patch_length / self.full_length


class DeltaRepository(Protocol):
    """Patches, and what they would start from."""

    async def queue(self, deltas: Sequence[Delta]) -> int:
        """Store new patches to be made; those that are there already stay. Returns how many are new."""

    async def next_queued(self) -> Delta | None:
        """Return the queued patch that was tried longest ago, or has waited longest, or None."""

    async def find(self, from_sha256: str, to_sha256: str) -> Delta | None:
        """Return a patch, or None."""

    async def save(self, delta: Delta) -> None:
        """Store a patch's new state."""

    async def remove(self, deltas: Sequence[Delta]) -> None:
        """Forget patches."""

    async def page(self, *, after: tuple[str, str], limit: int) -> Sequence[Delta]:
        """Return at most `limit` patches by (to, from), beyond `after`."""

    async def current(self, *, limit: int) -> Sequence[Delta]:
        """Return at most `limit` patches that are queued or offered, the newest first."""

    async def unwanted(self, slots: Collection[Slot], *, limit: int) -> Sequence[Delta]:
        """Return at most `limit` patches, not withdrawn yet, that start from what no device has in any slot."""

    async def left_over(self, *, limit: int) -> Sequence[Delta]:
        """Return at most `limit` patches that are neither queued nor offered, and whose bytes may be in the store."""

    async def installed_in(self, slot: Slot, *, limit: int) -> Mapping[str, int]:
        """Return the most common images of a slot: how many devices have them, by SHA-256; one read of its index."""
