"""What the words of `tinyfleet image` mean: kinds and slots, interfaces, requirements, names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from operator import or_
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from protocol.geometry import HOME_BYTES, SYSTEM_SLOTS, Core, ImageKind, Slot, slot_for
from protocol.identity import parse_guid
from protocol.image import IMAGE_TYPE, Interface, Runtime, TemporaryFlags
from protocol.versions import ImageName, Requirements
from service.cli.app_manifests import load_manifest
from service.cli.errors import BadArgumentError

SLOTLESS = frozenset({ImageKind.BOARD_CONFIGURATION, ImageKind.TRUST_STORE})
CORE_KINDS = frozenset(slot.kind for slot in HOME_BYTES)
_INTERFACE = re.compile(r"(secure-world|os|application)@(\d{1,10})")
_NAME: TypeAdapter[str] = TypeAdapter(ImageName)
_REQUIREMENTS: TypeAdapter[Mapping[str, str]] = TypeAdapter(Requirements)


class TemporaryChoice(StrEnum):
    """A flag of a temporary image, as a word."""

    REMOVE_AT_BOOT = "remove-at-boot"
    UNDER_DEVELOPMENT = "under-development"


@dataclass(frozen=True, slots=True)
class Labels:
    """What an image is called.

    Attributes:
        name: without a version.
        component_id: GUID of what it is.
    """

    name: str
    component_id: str


def kind_for(kind: ImageKind | None, core: Core) -> ImageKind:
    """Return the kind that is meant: by default what the core runs.

    Raises:
        BadArgumentError: a model.
    """
    if kind is ImageKind.MODEL:
        raise BadArgumentError("kind: expected any but a model, which `model pack` measures and makes, found model")
    return kind or (ImageKind.APPLICATION if core is Core.A7 else ImageKind.FIRMWARE)


def kinds_of(image_type: int) -> list[ImageKind]:
    """Return the kinds that have an image type; an application and a firmware share theirs."""
    return [kind for kind, number in IMAGE_TYPE.items() if number == image_type]


def kind_of(image_type: int, core: Core | None) -> ImageKind:
    """Return the kind that an image type is on a core.

    Raises:
        BadArgumentError: of no kind here.
    """
    kinds = kinds_of(image_type)
    if not kinds:
        raise BadArgumentError(f"image type: expected one of the fleet, found {image_type}")
    runs_firmware = core is not None and core is not Core.A7
    return ImageKind.FIRMWARE if runs_firmware and ImageKind.FIRMWARE in kinds else kinds[0]


def place_of(kind: ImageKind, core: Core) -> Slot | None:
    """Return the slot for a kind of image, or None for a kind that has none yet.

    Raises:
        BadArgumentError: the core has no such slot.
    """
    if kind in SLOTLESS:
        return None
    system = next((slot for slot in SYSTEM_SLOTS if slot.kind is kind), None)
    slot = system or slot_for(core, kind)
    if slot is None:
        raise BadArgumentError(f"core: expected one with a slot for a {kind}, found {core}")
    return slot


def labels_for(kind: ImageKind, manifest: Path | None, *, name: str | None, component_id: str | None) -> Labels:
    """Return name and component id, from the options or the manifest; where both say one, they must agree.

    Raises:
        BadArgumentError: neither says it, they do not agree, or it is no name or GUID.
        ManifestError, DocumentError, PackageFileError: the manifest.
    """
    said = None if manifest is None else load_manifest(manifest, kind)
    found = _one("name", name, None if said is None else said.name)
    try:
        _NAME.validate_python(found)
    except ValidationError as error:
        raise BadArgumentError(f"name: expected letters, digits, '.', '_' or '-', found {found[:40]!r}") from error
    given = None if component_id is None else parse_guid(component_id)
    return Labels(found, _one("component id", given, None if said is None else said.component_id))


def _one(what: str, option: str | None, in_manifest: str | None) -> str:
    if option is not None and in_manifest is not None and option != in_manifest:
        raise BadArgumentError(f"{what}: expected {in_manifest} as the manifest says, found {option}")
    found = option or in_manifest
    if not found:
        raise BadArgumentError(f"{what}: expected it as an option or in a manifest, found neither")
    return found


def interfaces_of(texts: Sequence[str] | None) -> tuple[Interface, ...]:
    """Read interfaces such as os@3.

    Raises:
        BadArgumentError: another text.
    """
    return tuple(_interface(text) for text in texts or ())


def _interface(text: str) -> Interface:
    found = _INTERFACE.fullmatch(text)
    if found is None:
        raise BadArgumentError(f"interface: expected secure-world, os or application and @version, found {text[:40]!r}")
    return Interface(Runtime[found[1].replace("-", "_").upper()], int(found[2]))


def requirements_of(texts: Sequence[str] | None) -> Mapping[str, str]:
    """Read requirements such as telemetry-app=>=2.1.

    Raises:
        BadArgumentError: another text, or one name twice.
    """
    pairs = [text.partition("=") for text in texts or ()]
    wanted = {name: versions for name, _, versions in pairs}
    if len(wanted) < len(pairs):
        raise BadArgumentError("requires: expected each name once, found one twice")
    try:
        return _REQUIREMENTS.validate_python(wanted)
    except ValidationError as error:
        raise BadArgumentError(
            f"requires: expected NAME=VERSIONS such as telemetry-app=>=2.1, found {', '.join(texts or ())[:120]!r}"
        ) from error


def flags_of(choices: Sequence[TemporaryChoice] | None) -> TemporaryFlags:
    """Return the flags that the words name."""
    named = (TemporaryFlags[choice.name] for choice in choices or ())
    return reduce(or_, named, TemporaryFlags(0))
