"""Where a slot's confirmed image is and where a new one goes: two ways, which the slot store does not tell apart.

Home and spare: the confirmed image is at home, a new one runs on trial from the spare that all such slots share, and is
copied home when it is confirmed. A and B: the confirmed image is in one of two places, a new one goes to the other and
stays there; the trailer's record that names the place confirms it, nothing is copied.
"""

from typing import Protocol

from typing_extensions import override

from device_sim.hardware.flash import NorFlash
from device_sim.hardware.regions import bring
from protocol.flash_geometry import FlashLayout, Place, Region
from protocol.geometry import Slot


class Places(Protocol):
    """The places of one slot. Regions do not overlap; only `settle` changes the flash."""

    def own(self) -> tuple[Region, ...]:
        """Return the places that no other slot uses."""

    def confirmed(self, active: Place) -> Region:
        """Return where the confirmed image is, by the place that the trailer names."""

    def candidate(self, active: Place) -> Region:
        """Return where a new image is written and runs on trial."""

    def settle(self, image: bytes, *, active: Place) -> Place:
        """Bring an image that is confirmed to where it stays, again and again until it is there.

        Args:
            image: the bytes in `candidate`.
            active: the place that the trailer names, the old image's.

        Returns:
            The place that the trailer is to name next.
        """


class HomeAndSpare(Places):
    """One place of its own, and the spare that such slots share."""

    def __init__(self, flash: NorFlash, *, home: Region, spare: Region) -> None:
        self._flash = flash
        self._home = home
        self._spare = spare

    @override
    def own(self) -> tuple[Region, ...]:
        return (self._home,)

    @override
    def confirmed(self, active: Place) -> Region:
        return self._home

    @override
    def candidate(self, active: Place) -> Region:
        return self._spare

    @override
    def settle(self, image: bytes, *, active: Place) -> Place:
        bring(self._flash, self._home, image)
        return Place.A


class TwoPlaces(Places):
    """Places A and B, which take turns."""

    def __init__(self, *, a: Region, b: Region) -> None:
        self._regions = (a, b)

    @override
    def own(self) -> tuple[Region, ...]:
        return self._regions

    @override
    def confirmed(self, active: Place) -> Region:
        return self._regions[active]

    @override
    def candidate(self, active: Place) -> Region:
        return self._regions[active.other]

    @override
    def settle(self, image: bytes, *, active: Place) -> Place:
        return active.other


def places_of(flash: NorFlash, layout: FlashLayout, slot: Slot) -> Places:
    """Return the places of a slot."""
    if slot in layout.two_places:
        return TwoPlaces(a=layout.place(slot, Place.A), b=layout.place(slot, Place.B))
    return HomeAndSpare(flash, home=layout.place(slot), spare=layout.spare)
