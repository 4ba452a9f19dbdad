"""The trailers of all slots, as a journal of whole states: the valid record with the highest sequence number counts.

A record, little-endian, padded with erased bytes to whole flash pages, so that writing one is one operation:

    0   4  magic "TFT1"
    4   8  u64 sequence
    12  1  u8 state of the spare (`SpareState`)
    13  1  u8 its slot: index in the layout's order, 255 for none
    14  1  u8 number of slots n
    15  1  u8 places: bit i is set where the confirmed image of the i-th slot is in place B
    16  4  u32 length of the image in the spare
    20  32 its SHA-256
    52  36 for each slot's confirmed image: u32 length (0: empty), SHA-256
    …   4  u32 CRC-32 of everything before it

Two copies lie in sectors of their own, two sectors each. A copy appends until its sector is full, then erases the
other one and goes on there, so the newest record is never erased before a newer one is whole; a copy of which a sector
is worn out falls behind, and the other one goes on alone. A torn record fails its
CRC and the one before it counts; its place is skipped. The CRC is against torn writes, not against attackers: what
boots is decided by signatures. A record of what the layout cannot hold is taken as torn, whatever its CRC.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from device_sim.errors import WornSectorError
from device_sim.hardware.flash import ERASED, NorFlash
from device_sim.hardware.spare import Spare, SpareState
from protocol.flash_geometry import FlashLayout, Place, Region
from protocol.geometry import Slot

_MAGIC = b"TFT1"
_HEAD = struct.Struct("<4sQBBBBI32s")
_HOME = struct.Struct("<I32s")
_CRC = struct.Struct("<I")
_NO_SLOT = 255
_STATES = frozenset(SpareState)


@dataclass(frozen=True, slots=True)
class HomeImage:
    """A slot's confirmed image.

    Attributes:
        digest: its SHA-256, 64 hex digits.
        length: bytes.
        place: where it is; A in a slot that has a single place.
    """

    digest: str
    length: int
    place: Place = Place.A


@dataclass(frozen=True, slots=True)
class TrailerState:
    """What every slot holds."""

    spare: Spare = field(default_factory=Spare)
    homes: Mapping[Slot, HomeImage] = field(default_factory=dict)


class TrailerJournal:
    """The journal of one flash; a blank one says that every slot is empty.

    Args:
        flash: holds it.
        layout: says where, and which slots there are.
    """

    def __init__(self, flash: NorFlash, layout: FlashLayout) -> None:
        self._layout = layout
        self._slots = layout.slots
        record_bytes = _HEAD.size + len(self._slots) * _HOME.size + _CRC.size
        page = flash.geometry.page_bytes
        stride = -(-record_bytes // page) * page
        half = layout.trailer.size_bytes // 2
        offsets = (layout.trailer.offset, layout.trailer.offset + half)
        self._copies = [
            _Copy(flash, Region(offset, half), record_bytes, stride=stride, is_possible=self._is_possible)
            for offset in offsets
        ]
        self._sequence, self._state = max((self._newest(copy) for copy in self._copies), key=lambda found: found[0])

    @property
    def state(self) -> TrailerState:
        """What every slot holds."""
        return self._state

    def write_spare(self, spare: Spare) -> None:
        """Record what the spare is used for."""
        self._write(replace(self._state, spare=spare))

    def write_home(self, slot: Slot, image: HomeImage | None, *, spare: Spare) -> None:
        """Record what a home slot holds, and the spare, in one record."""
        homes = {name: kept for name, kept in self._state.homes.items() if name != slot}
        if image is not None:
            homes[slot] = image
        self._write(TrailerState(spare, homes))

    def _write(self, state: TrailerState) -> None:
        record, worn = self._encode(self._sequence + 1, state), []
        for copy in self._copies:
            try:
                copy.append(record)
            except WornSectorError as error:  # one copy is enough
                worn.append(error)
        if len(worn) == len(self._copies):
            raise worn[0]
        self._sequence, self._state = self._sequence + 1, state

    def _newest(self, copy: "_Copy") -> tuple[int, TrailerState]:
        return (0, TrailerState()) if copy.newest is None else self._decode(copy.newest)

    def _encode(self, sequence: int, state: TrailerState) -> bytes:
        spare = state.spare
        index = _NO_SLOT if spare.slot is None else self._slots.index(spare.slot)
        digest = bytes.fromhex(spare.digest)
        places = sum(1 << number for number, slot in enumerate(self._slots) if _is_in_b(state.homes.get(slot)))
        head = _HEAD.pack(_MAGIC, sequence, spare.state, index, len(self._slots), places, spare.length, digest)
        body = head + b"".join(_encode_home(state.homes.get(slot)) for slot in self._slots)
        return body + _CRC.pack(zlib.crc32(body))

    def _is_possible(self, record: bytes) -> bool:
        """Whether a record with a valid CRC says what this layout can hold."""
        _, _, state, index, count, _, length, _ = _HEAD.unpack_from(record)
        is_named = index < count or (index == _NO_SLOT and state == SpareState.EMPTY)
        if count != len(self._slots) or state not in _STATES or not is_named:
            return False
        _, held = self._decode(record)
        fits = held.spare.slot is None or length <= self._layout.slot_bytes[held.spare.slot]
        return fits and all(self._is_possible_home(slot, image) for slot, image in held.homes.items())

    def _is_possible_home(self, slot: Slot, image: HomeImage) -> bool:
        is_place = image.place is Place.A or slot in self._layout.two_places
        return is_place and image.length <= self._layout.slot_bytes[slot]

    def _decode(self, record: bytes) -> tuple[int, TrailerState]:
        _, sequence, state, index, _, places, length, digest = _HEAD.unpack_from(record)
        spare = Spare()
        if index != _NO_SLOT:
            spare = Spare(SpareState(state), self._slots[index], digest.hex(), length)
        homes = {}
        for number, slot in enumerate(self._slots):
            home_length, home_digest = _HOME.unpack_from(record, _HEAD.size + number * _HOME.size)
            if home_length:
                homes[slot] = HomeImage(home_digest.hex(), home_length, Place(places >> number & 1))
        return sequence, TrailerState(spare, homes)


class _Copy:
    """One of the two copies: two sectors that take turns."""

    def __init__(
        self,
        flash: NorFlash,
        region: Region,
        record_bytes: int,
        *,
        stride: int,
        is_possible: Callable[[bytes], bool],
    ) -> None:
        self._flash = flash
        self._region = region
        self._record_bytes = record_bytes
        self._stride = stride
        self._is_possible = is_possible
        self._sector = region.size_bytes // 2
        self._per_sector = self._sector // stride
        self._place, self.newest = self._find_newest()

    def append(self, record: bytes) -> None:
        """Write a record after the newest, in the other sector when this one is full."""
        place = self._next_place()
        if place % self._per_sector == 0:
            self._flash.erase(self._offset(place))
        self._flash.write(self._offset(place), record.ljust(self._stride, bytes([ERASED])))
        self._place, self.newest = place, record

    def _find_newest(self) -> tuple[int, bytes | None]:
        """Return place and bytes of the valid record with the highest sequence."""
        found = [(place, record) for place in range(2 * self._per_sector) if (record := self._valid(place))]
        # Sequence numbers follow the magic; as the copy is empty, the last place makes the first one follow.
        return max(found, key=lambda item: _HEAD.unpack_from(item[1])[1], default=(2 * self._per_sector - 1, None))

    def _valid(self, place: int) -> bytes | None:
        record = self._flash.read(self._offset(place), self._record_bytes)
        body, crc = record[: -_CRC.size], record[-_CRC.size :]
        is_whole = record.startswith(_MAGIC) and crc == _CRC.pack(zlib.crc32(body))
        return record if is_whole and self._is_possible(record) else None

    def _next_place(self) -> int:
        sector_end = (self._place // self._per_sector + 1) * self._per_sector
        for place in range(self._place + 1, sector_end):
            if self._flash.is_erased(self._offset(place), self._stride):
                return place
        return sector_end % (2 * self._per_sector)

    def _offset(self, place: int) -> int:
        sector, number = divmod(place, self._per_sector)
        return self._region.offset + sector * self._sector + number * self._stride


def _encode_home(image: HomeImage | None) -> bytes:
    return _HOME.pack(0, b"") if image is None else _HOME.pack(image.length, bytes.fromhex(image.digest))


def _is_in_b(image: HomeImage | None) -> bool:
    return image is not None and image.place is Place.B
