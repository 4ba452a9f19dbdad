"""The order in which a rollout comes to devices: salted, so that nobody chooses to be first, and read by an index.

Device ids are hashes, so the devices of a group fall evenly into buckets by the first digits of their ids, and a bucket
is one range of an index. Buckets are ordered by SHA-256 of `{rollout id}:{digits}`, and the devices of a bucket by
SHA-256 of `{rollout id}:{device id}`. A position is both in 63 bits: the bucket's place in the upper four bits for each
digit, the device's hash in the others. So the first devices of any rollout are found by reading a few buckets, however
large the fleet, and a device that joins later has its position by itself.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

POSITION_BITS = 63  # fits a signed 64-bit column
MAX_POSITION = (1 << POSITION_BITS) - 1
NO_POSITION = -1  # before the first
LARGEST_BUCKET = 500  # devices, on average
MAX_DIGITS = 4  # 32 million devices; beyond it buckets grow
_HEX_BITS = 4
_ROLLOUTS_KEPT = 8


@dataclass(frozen=True, slots=True)
class Bucket:
    """Devices whose ids begin alike.

    Attributes:
        prefix: hex digits; empty where one bucket holds all.
        last: highest position of the bucket.
    """

    prefix: str
    last: int


@dataclass(frozen=True, slots=True)
class Order:
    """The order of one rollout.

    Attributes:
        rollout_id: the salt.
        digits: of a device's id that name its bucket.
    """

    rollout_id: str
    digits: int

    def position(self, device_id: str) -> int:
        """Return a device's place."""
        within = _hash(f"{self.rollout_id}:{device_id}") >> (POSITION_BITS - self._bits)
        return _places(self.rollout_id, self.digits)[device_id[: self.digits]] << self._bits | within

    def bucket_after(self, position: int) -> Bucket | None:
        """Return the bucket of the next position, or None if there is none."""
        place, prefixes = (position + 1) >> self._bits, _prefixes(self.rollout_id, self.digits)
        return None if place >= len(prefixes) else Bucket(prefixes[place], ((place + 1) << self._bits) - 1)

    def prefixes(self) -> Sequence[str]:
        """Return the prefixes of all buckets in their order."""
        return _prefixes(self.rollout_id, self.digits)

    @property
    def _bits(self) -> int:
        return POSITION_BITS - _HEX_BITS * self.digits


def digits_for(devices: int) -> int:
    """Return how many digits make buckets of a good size for so many devices."""
    fitting = (digits for digits in range(MAX_DIGITS) if devices <= LARGEST_BUCKET * 16**digits)
    return next(fitting, MAX_DIGITS)


def _hash(text: str) -> int:
    """Return the upper 63 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - POSITION_BITS)


@lru_cache(maxsize=_ROLLOUTS_KEPT)
def _prefixes(rollout_id: str, digits: int) -> tuple[str, ...]:
    """Return the prefixes of all buckets in their order."""
    prefixes = [f"{number:0{digits}x}" for number in range(16**digits)] if digits else [""]
    return tuple(sorted(prefixes, key=lambda prefix: (_hash(f"{rollout_id}:{prefix}"), prefix)))


@lru_cache(maxsize=_ROLLOUTS_KEPT)
def _places(rollout_id: str, digits: int) -> Mapping[str, int]:
    """Return the place of each bucket by its prefix."""
    return {prefix: place for place, prefix in enumerate(_prefixes(rollout_id, digits))}
