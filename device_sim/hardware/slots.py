"""The slots of a flash, safe at every point where the power may fail.

One new image at a time is brought in, tried and kept or dropped. Where it lies meanwhile is called the spare here: the
shared spare, or the other place of a slot that has two (`hardware.places`). States of the spare, each a record of the
journal (`hardware.journal`):

    EMPTY ──begin──> FILLING ──mark_trial──> TRIAL ──confirm──> CONFIRMED ──settle──> EMPTY, the slot has the image
                        │                      │
                        └──────── drop ────────┴──> EMPTY, the slot as before

What `recover` does after a cut, before any core starts:

    EMPTY      nothing: confirmed images are whole
    FILLING    nothing: confirmed images are whole, `begin` takes the write up where it ended
    TRIAL      drop: nobody confirmed it
    CONFIRMED  settle: a copy home goes on, the spare stays whole until it is done; with two places nothing is copied

Invariants: the place of a confirmed image changes only in CONFIRMED, while the spare holds the new one whole; the
record that ends CONFIRMED is written when the image is where it names it, and until then the slot has the image in the
spare, for ever if a sector of its home is worn out; recovery only goes forward, so it ends; a cut in recovery is a cut
in the same step. Factory flashing (`install`) is outside this: it empties the slot's record first.
"""

import contextlib
import hashlib

from device_sim.errors import ImageTooLargeError, SpareContentError, SpareStateError, WornSectorError
from device_sim.hardware.flash import ERASED, NorFlash
from device_sim.hardware.journal import HomeImage, TrailerJournal
from device_sim.hardware.places import places_of
from device_sim.hardware.regions import blank, bring, erase
from device_sim.hardware.spare import Spare, SpareState
from protocol.flash_geometry import FlashLayout, Place, Region
from protocol.geometry import Slot


class SlotStore:
    """The slots of one flash. Every method may raise PowerCutError; then the store is to be made anew."""

    def __init__(self, flash: NorFlash, layout: FlashLayout) -> None:
        self._flash = flash
        self._layout = layout
        self._places = {slot: places_of(flash, layout, slot) for slot in layout.slots}
        self._journal = TrailerJournal(flash, layout)
        self._filled: int | None = None  # bytes in the spare since `begin`

    @property
    def spare(self) -> Spare:
        """What the spare holds."""
        return self._journal.state.spare

    def home(self, slot: Slot) -> HomeImage | None:
        """Return the confirmed image of a slot, or None; one that is not settled yet is in the spare."""
        spare = self.spare
        if spare.state is SpareState.CONFIRMED and spare.slot == slot:
            return HomeImage(spare.digest, spare.length)
        return self._journal.state.homes.get(slot)

    def read_home(self, slot: Slot) -> bytes | None:
        """Return the bytes of a slot's confirmed image, unverified, or None."""
        image = self.home(slot)
        return None if image is None else self._flash.read(self._confirmed(slot).offset, image.length)

    def read_home_part(self, slot: Slot, offset: int, length: int) -> bytes:
        """Return bytes of a slot's confirmed image, unverified; none beyond its end, or where there is no image."""
        image = self.home(slot)
        end = 0 if image is None else min(offset + length, image.length)
        return self._flash.read(self._confirmed(slot).offset + offset, end - offset) if offset < end else b""

    def read_spare(self, offset: int, length: int) -> bytes:
        """Read bytes of the spare, unverified.

        Raises:
            SpareStateError: nothing was begun.
        """
        return self._flash.read(self._spare_region().offset + offset, length)

    def spare_digest(self, length: int) -> str:
        """Return the SHA-256 of the spare's first bytes, 64 hex digits; never more than a sector is read at once."""
        digest, sector = hashlib.sha256(), self._flash.geometry.sector_bytes
        for offset in range(0, length, sector):
            digest.update(self.read_spare(offset, min(sector, length - offset)))
        return digest.hexdigest()

    def read_spare_image(self) -> bytes:
        """Return the image in the spare, unverified; empty when there is none."""
        return self.read_spare(0, self.spare.length) if self.spare.length else b""

    def begin(self, slot: Slot, digest: str, length: int) -> int:
        """Make the spare ready for an image, or take up a write that was cut.

        Returns:
            Bytes that are there already: what was written since the flash was opened, or after a cut whole sectors.

        Raises:
            ImageTooLargeError: for the slot or the spare.
            SpareStateError: an image is on trial or on its way home.
            WornSectorError: a sector is worn out.
        """
        self._require_fit(slot, length)
        wanted = Spare(SpareState.FILLING, slot, digest, length)
        if self.spare.state in (SpareState.TRIAL, SpareState.CONFIRMED):
            raise SpareStateError(f"spare: expected it free, found {self.spare.state.name} for {self.spare.slot}")
        if self.spare == wanted:
            self._filled = self._resume(length) if self._filled is None else self._filled
        else:
            self.drop()
            erase(self._flash, self._candidate(slot), length)
            self._journal.write_spare(wanted)
            self._filled = 0
        return self._filled

    def write(self, offset: int, data: bytes) -> None:
        """Write the next bytes of the image: whole rows, unless they end it.

        Raises:
            SpareStateError: nothing was begun since the flash was opened.
            SpareContentError: not the next bytes, not whole rows, or more than were announced.
        """
        if self.spare.state != SpareState.FILLING or self._filled is None:
            raise SpareStateError(f"spare: expected an image begun, found {self.spare.state.name}")
        end, row = offset + len(data), self._flash.geometry.write_bytes
        if offset != self._filled or end > self.spare.length:
            raise SpareContentError(
                f"spare: expected bytes from {self._filled} to at most {self.spare.length}, found {offset} to {end}"
            )
        if end % row and end != self.spare.length:
            raise SpareContentError(f"spare: expected whole rows of {row} bytes before the end, found {len(data)}")
        self._flash.write(self._spare_region().offset + offset, data + bytes([ERASED]) * (-len(data) % row))
        self._filled = end

    def require_complete(self, slot: Slot) -> bytes:
        """Return the image in the spare if it is whole and for this slot; drop it if its digest is another.

        Raises:
            SpareStateError: the spare holds no image for the slot.
            SpareContentError: incomplete, or not the announced digest.
        """
        self._require(SpareState.FILLING, slot)
        return self._require_digest()

    def mark_trial(self, slot: Slot) -> None:
        """Record that the slot's core runs from the spare from now on, unconfirmed.

        Raises:
            SpareStateError: the spare holds no image for the slot.
            SpareContentError: incomplete, or not the announced digest.
            WornSectorError: the journal is worn out.
        """
        self.require_complete(slot)
        self._journal.write_spare(Spare(SpareState.TRIAL, slot, self.spare.digest, self.spare.length))

    def confirm(self, slot: Slot) -> None:
        """Record that the image on trial stays; `settle` is next.

        Raises:
            SpareStateError: the slot has no image on trial.
            SpareContentError: the image has changed since it was written; it is dropped.
            WornSectorError: the journal is worn out.
        """
        self._require(SpareState.TRIAL, slot)
        self._require_digest()
        self._journal.write_spare(Spare(SpareState.CONFIRMED, slot, self.spare.digest, self.spare.length))

    def settle(self) -> None:
        """Bring a confirmed image to where it stays, or finish doing so, and free the spare.

        Raises:
            SpareStateError: no image is confirmed.
            SpareContentError: the image has changed since it was written; it is dropped, the slot as before.
            WornSectorError: a sector where it is to stay is worn out; the image stays in the spare.
        """
        spare = self.spare
        if spare.state != SpareState.CONFIRMED or spare.slot is None:
            raise SpareStateError(f"spare: expected CONFIRMED, found {spare.state.name}")
        image = self._require_digest()
        place = self._places[spare.slot].settle(image, active=self._active(spare.slot))
        self._journal.write_home(spare.slot, HomeImage(spare.digest, spare.length, place), spare=Spare())

    def drop(self) -> None:
        """Free the spare; what was in it is gone.

        Where the journal is worn out it says for ever what it said; an image on trial is then dropped by every boot.
        """
        self._filled = None
        if self.spare != Spare():
            with contextlib.suppress(WornSectorError):
                self._journal.write_spare(Spare())

    def recover(self) -> Spare | None:
        """Finish or undo what a power cut left behind; call it before any core starts.

        Returns:
            The image on trial that was dropped, or None.
        """
        found = self.spare
        if found.state == SpareState.CONFIRMED:
            # Another image: the boot judges what is there. A worn sector: the image runs from the spare.
            with contextlib.suppress(SpareContentError, WornSectorError):
                self.settle()
        if found.state == SpareState.TRIAL:
            self.drop()
            return found
        return None

    def install(self, slot: Slot, image: bytes) -> None:
        """Write an image straight into its slot, as a factory does; a cut in it leaves the slot empty.

        Raises:
            ImageTooLargeError: it does not fit the slot.
        """
        place = self._active(slot)
        region = self._places[slot].confirmed(place)
        if len(image) > region.size_bytes:
            raise ImageTooLargeError(f"{slot}: expected at most {region.size_bytes} bytes, found {len(image)}")
        self._record(slot, None)
        bring(self._flash, region, image)
        self._record(slot, HomeImage(hashlib.sha256(image).hexdigest(), len(image), place))

    def erase_home(self, slot: Slot) -> None:
        """Erase a slot's places and then forget its image, so that a cut leaves nothing readable that is not listed."""
        for region in self._places[slot].own():
            blank(self._flash, region)
        self._record(slot, None)

    def erase_spare(self) -> None:
        """Erase every place that a new image could be in, then free the spare."""
        for region in sorted({self._candidate(slot) for slot in self._layout.slots}):
            blank(self._flash, region)
        self.drop()

    def _record(self, slot: Slot, image: HomeImage | None) -> None:
        """Record what a slot holds from now on; what the spare holds for it is forgotten, as its place may change."""
        spare = self.spare
        if spare.slot == slot:
            spare, self._filled = Spare(), None
        self._journal.write_home(slot, image, spare=spare)

    def _active(self, slot: Slot) -> Place:
        image = self._journal.state.homes.get(slot)
        return Place.A if image is None else image.place

    def _confirmed(self, slot: Slot) -> Region:
        spare = self.spare
        if spare.state is SpareState.CONFIRMED and spare.slot == slot:
            return self._candidate(slot)
        return self._places[slot].confirmed(self._active(slot))

    def _candidate(self, slot: Slot) -> Region:
        return self._places[slot].candidate(self._active(slot))

    def _spare_region(self) -> Region:
        if self.spare.slot is None:
            raise SpareStateError(f"spare: expected an image begun, found {self.spare.state.name}")
        return self._candidate(self.spare.slot)

    def _require(self, state: SpareState, slot: Slot) -> None:
        if (self.spare.state, self.spare.slot) != (state, slot):
            raise SpareStateError(
                f"spare: expected {state.name} for {slot}, found {self.spare.state.name} for {self.spare.slot}"
            )

    def _require_digest(self) -> bytes:
        image, expected = self.read_spare_image(), self.spare.digest
        found = hashlib.sha256(image).hexdigest()
        if found != expected:
            self.drop()
            raise SpareContentError(f"spare: expected SHA-256 {expected}, found {found}")
        return image

    def _require_fit(self, slot: Slot, length: int) -> None:
        limit = min(self._confirmed(slot).size_bytes, self._candidate(slot).size_bytes)
        if not 0 < length <= limit:
            raise ImageTooLargeError(f"{slot}: expected 1 to {limit} bytes, found {length}")

    def _resume(self, length: int) -> int:
        """Return how many bytes of a cut write can stay; the sector that was being written is erased."""
        if self.spare_digest(length) == self.spare.digest:
            return length
        sector = self._flash.geometry.sector_bytes
        written = len(self.read_spare(0, -(-length // sector) * sector).rstrip(bytes([ERASED])))
        start = max(written - 1, 0) // sector * sector
        self._flash.erase(self._spare_region().offset + start)
        return start
