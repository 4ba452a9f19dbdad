"""Choices that a scenario's seed makes for each device, each from a generator of its own.

The generator's seed names the scenario's seed, what is chosen, and for whom; so another device, or another choice,
changes no choice that was there before.
"""

import random
from collections.abc import Mapping


def chance(seed: int, purpose: str, who: str) -> random.Random:
    """Return the generator of one purpose of one device.

    Args:
        seed: of the scenario.
        purpose: what is chosen.
        who: device id, or fleet and number of a device that has no id yet.
    """
    return random.Random(f"{seed}/{purpose}/{who}")  # noqa: S311 - a seeded simulation, no key


def is_hit(seed: int, purpose: str, who: str, *, share: float) -> bool:
    """Whether a device is among a share of all."""
    return chance(seed, purpose, who).random() < share


def choose(seed: int, purpose: str, who: str, *, shares: Mapping[str, float]) -> str | None:
    """Return one of several names by their shares, or None for what is left of the whole."""
    drawn = chance(seed, purpose, who).random()
    for name, share in sorted(shares.items()):
        if drawn < share:
            return name
        drawn -= share
    # Shares that are the whole up to rounding leave nobody out.
    return max(shares, default=None) if sum(shares.values()) > 1 - 1e-9 else None
