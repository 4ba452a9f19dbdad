"""Filters as storage evaluates them: tests of images have become the digests that pass them."""

from collections.abc import Mapping
from dataclasses import dataclass

from protocol.geometry import Slot


@dataclass(frozen=True, slots=True)
class HasAttribute:
    """The attribute has one of the values."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunsImage:
    """The slot runs one of the images; SHA-256 of packages, hex."""

    slot: Slot
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Every:
    """All parts hold; none holds for every device."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Some:
    """At least one part holds."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: "Condition"


Condition = HasAttribute | RunsImage | Every | Some | Not
EVERYBODY = Every(())
NOBODY = Not(EVERYBODY)


def holds(condition: Condition, attributes: Mapping[str, str], installed: Mapping[Slot, str]) -> bool:
    """Say whether a condition holds for a device.

    Args:
        condition: any.
        attributes: of the device, by name.
        installed: SHA-256 of what it runs, by slot.
    """
    match condition:
        case HasAttribute(name, values):
            return attributes.get(name) in values
        case RunsImage(slot, digests):
            return installed.get(slot) in digests
        case Every(parts):
            return all(holds(part, attributes, installed) for part in parts)
        case Some(parts):
            return any(holds(part, attributes, installed) for part in parts)
        case Not(part):
            return not holds(part, attributes, installed)
