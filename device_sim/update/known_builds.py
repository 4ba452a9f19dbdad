"""What a device remembers of the builds in its slots, where flash or metadata may not say it any more.

A damaged image says nothing of itself, yet must not let an older one in; an image's requirements are its role's word,
and that role may have expired. Of each slot at most two builds are kept: what it holds, and what was offered last. An
offered one has been confirmed if its release's counter has become the slot's floor, and then is what the slot holds.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

from pydantic import Field

from device_sim.update.repository import Storage
from protocol.document import Document, Moment, canonical_json, parse_document
from protocol.geometry import Slot
from protocol.model import Sha256Hex
from protocol.versions import Build

STORED = "uptane/builds"


class _Known(Document):
    """A build, with the release counter that the slot's floor has once it is confirmed."""

    sha256: Sha256Hex
    component_id: str
    name: str
    built_at: Moment | None
    requires: Mapping[str, str] | None  # None where nobody has said
    counter: int


class _Slots(Document):
    slots: Mapping[Slot, Annotated[tuple[_Known, ...], Field(max_length=2)]] = Field(default_factory=dict)


class KnownBuilds:
    """Remembers builds in secure storage.

    Args:
        storage: where.
        floor: gives the counter of the last release that was confirmed in a slot.
    """

    def __init__(self, storage: Storage, floor: Callable[[Slot], int]) -> None:
        self._storage = storage
        self._floor = floor
        kept = storage.get(STORED)
        self._slots = dict(parse_document(kept, _Slots).slots) if kept is not None else {}

    def confirmed(self, slot: Slot) -> Build | None:
        """Return the build that was confirmed last in a slot, as far as is known."""
        known = self._confirmed(slot)
        return None if known is None else Build(known.sha256, known.component_id, known.name, known.built_at)

    def requires(self, sha256: str) -> Mapping[str, str] | None:
        """Return what a build was found to require, or None where that is not known."""
        found = (known for slot in self._slots.values() for known in slot if known.sha256 == sha256)
        return next((known.requires for known in found if known.requires is not None), None)

    def note(self, held: Mapping[Slot, Build], offered: Mapping[Slot, Build], *, counter: int) -> None:
        """Remember what the slots hold and what they are to hold.

        Args:
            held: confirmed builds; those outside the release with the requirements that the check went by. A slot that
                is missing holds what it was known to hold.
            offered: builds of a verified release, with their requirements.
            counter: the release's.
        """
        slots = {}
        for slot in Slot:
            now = self._held(slot, held[slot], asked=slot not in offered) if slot in held else self._confirmed(slot)
            coming = _known(offered[slot], offered[slot].requires, counter) if slot in offered else None
            slots[slot] = tuple(known for known in (now, coming) if known is not None)
        self._slots = {slot: known for slot, known in slots.items() if known}
        self._storage.put(STORED, canonical_json(_Slots(slots=self._slots)))

    def _held(self, slot: Slot, build: Build, *, asked: bool) -> _Known:
        requires = build.requires if asked else self.requires(build.sha256)
        return _known(build, requires, self._floor(slot))

    def _confirmed(self, slot: Slot) -> _Known | None:
        floor = self._floor(slot)
        return next((known for known in reversed(self._slots.get(slot, ())) if known.counter == floor), None)


def _known(build: Build, requires: Mapping[str, str] | None, counter: int) -> _Known:
    return _Known(
        sha256=build.sha256,
        component_id=build.component_id,
        name=build.name,
        built_at=build.built_at,
        requires=requires,
        counter=counter,
    )
