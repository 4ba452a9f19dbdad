"""Bills of materials: of each image a CycloneDX document, made on the operator's machine.

A maker's own bill (`--bom`, service/cli/bills_maker.py) is put below the image. Of an ML model the bill says what its
card says. Where nobody says what is inside, the bill names the image alone and calls itself incomplete. Equal inputs
give equal bytes: the serial number follows from the image's digest and its maker's bill, the time is the image's own.
"""

import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from packageurl import PackageURL
from pydantic import ValidationError

from protocol.cyclonedx import (
    Aggregate,
    Bom,
    BomError,
    Component,
    ComponentType,
    Composition,
    Dependency,
    Hash,
    Metadata,
    Organization,
    Property,
    check_references,
    check_size,
)
from protocol.document import canonical_json
from protocol.geometry import ImageKind, Slot
from protocol.image import VerifiedImage
from protocol.model import parse_model_payload
from service.cli.bills_maker import MakerBom, load_maker_bom
from service.cli.bills_model import data_components, described
from service.cli.output import remark

IMAGE_ID = "tinyfleet:image-id"
COMPONENT_ID = "tinyfleet:component-id"
MAKER_BOM = "tinyfleet:maker-bom-sha256"

_TYPES: Mapping[ImageKind, ComponentType] = MappingProxyType(
    {
        ImageKind.BOOT_LOADER: ComponentType.FIRMWARE,
        ImageKind.SECURITY_MONITOR: ComponentType.FIRMWARE,
        ImageKind.OS: ComponentType.OPERATING_SYSTEM,
        ImageKind.APPLICATION: ComponentType.APPLICATION,
        ImageKind.FIRMWARE: ComponentType.FIRMWARE,
        ImageKind.MODEL: ComponentType.MODEL,
    }
)


def image_bom(slot: Slot, image: VerifiedImage, *, maker: MakerBom | None = None, supplier: str | None = None) -> bytes:
    """Make an image's bill of materials, canonical JSON.

    Args:
        slot: where it goes.
        image: verified.
        maker: its maker's own bill.
        supplier: name of who signs it, where that is known.

    Raises:
        BomError: the maker's references are wrong, or are those of the image; or a text is none for CycloneDX.
        ModelPackageError: a model whose payload is none.
    """
    try:
        bom = _bom(slot, image, maker, supplier)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise BomError(f"{image.info.name}: expected what CycloneDX takes, found: {first['msg']}") from error
    check_size((bom.metadata.component, *bom.components))
    check_references(bom)
    return canonical_json(bom)


def check_maker_bom(path: Path, slot: Slot, image: VerifiedImage) -> None:
    """Check that a maker's bill of materials can be taken in, and say what is left out of it.

    Raises:
        MakerBomError: it cannot be read, or is no bill that we take.
        BomError: its references are wrong.
    """
    maker = load_maker_bom(path)
    image_bom(slot, image, maker=maker)
    for name, count in sorted(maker.left_out.items()):
        remark(f"{path.name}: {name} is not taken over ({count} times)")


def is_complete(bom: Bom) -> bool:
    """Whether a bill says that it lists all that is in its image."""
    own = bom.metadata.component.bom_ref
    said = [each.aggregate for each in bom.compositions if own in (*each.assemblies, *each.dependencies)]
    return bool(said) and all(aggregate is Aggregate.COMPLETE for aggregate in said)


def _bom(slot: Slot, image: VerifiedImage, maker: MakerBom | None, supplier: str | None) -> Bom:
    component = _component(slot, image, supplier)
    if slot.kind is ImageKind.MODEL:
        return _of_model(component, image)
    return _alone(component, image) if maker is None else _above(component, image, maker)


def _component(slot: Slot, image: VerifiedImage, supplier: str | None) -> Component:
    info = image.info
    name, _, version = info.name.partition("@")
    return Component(
        type=_TYPES[slot.kind],
        bom_ref=info.image_id,
        supplier=None if supplier is None else Organization(name=supplier),
        name=name,
        version=version,
        hashes=(Hash(alg="SHA-256", content=image.digest),),
        purl=PackageURL("generic", None, name, version, {"checksum": f"sha256:{image.digest}"}).to_string(),
        properties=(
            Property(name=IMAGE_ID, value=info.image_id),
            Property(name=COMPONENT_ID, value=info.component_id),
        ),
    )


def _of_model(component: Component, image: VerifiedImage) -> Bom:
    card = parse_model_payload(image.payload).card
    data, own = tuple(data_components(card)), (image.info.image_id,)
    # A model and its card are all that a model package holds; what it was made of is known as far as the card says it.
    made_of = Aggregate.COMPLETE if card.trained_on else Aggregate.INCOMPLETE
    return Bom(
        serial_number=_serial_number(image, ""),
        metadata=Metadata(timestamp=image.info.built_at, component=described(component, card)),
        components=data,
        dependencies=(Dependency(ref=own[0], depends_on=tuple(each.bom_ref or "" for each in data)),),
        compositions=(
            Composition(aggregate=Aggregate.COMPLETE, assemblies=own),
            Composition(aggregate=made_of, dependencies=own),
        ),
    )


def _alone(component: Component, image: VerifiedImage) -> Bom:
    own = (image.info.image_id,)
    return Bom(
        serial_number=_serial_number(image, ""),
        metadata=Metadata(timestamp=image.info.built_at, component=component),
        compositions=(Composition(aggregate=Aggregate.INCOMPLETE, assemblies=own, dependencies=own),),
    )


def _above(component: Component, image: VerifiedImage, maker: MakerBom) -> Bom:
    own = image.info.image_id
    whole = () if maker.whole is None else (maker.whole,)
    inside = tuple(_named(each, index) for index, each in enumerate((*whole, *maker.components)))
    needs = inside[:1] if whole else inside
    depends_on = tuple(dict.fromkeys(each.bom_ref for each in needs if each.bom_ref is not None))
    return Bom(
        serial_number=_serial_number(image, maker.sha256),
        metadata=Metadata(
            timestamp=image.info.built_at,
            component=component,
            properties=(Property(name=MAKER_BOM, value=maker.sha256),),
        ),
        components=inside,
        dependencies=(Dependency(ref=own, depends_on=depends_on), *maker.dependencies),
        compositions=(
            Composition(aggregate=maker.aggregate, assemblies=(own,), dependencies=(own,)),
            *(each for each in maker.compositions if each.assemblies or each.dependencies),
        ),
    )


def _named(component: Component, index: int) -> Component:
    if component.bom_ref is not None:
        return component
    return component.model_copy(update={"bom_ref": f"component-{index}"})


def _serial_number(image: VerifiedImage, maker_sha256: str) -> str:
    return uuid.uuid5(uuid.UUID(image.info.image_id), image.digest + maker_sha256).urn
