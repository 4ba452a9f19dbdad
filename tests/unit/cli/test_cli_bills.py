"""Bills of materials that the CLI makes: valid CycloneDX, the same every time, honest about what they lack."""

import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from protocol.cyclonedx import MAX_BOM_BYTES, Aggregate, Bom, BomError, ComponentType, every_component, read_bom
from protocol.geometry import Core, Slot
from protocol.image import IMAGE_TYPE, ImageInfo, VerifiedImage, digest_of
from protocol.model import (
    Evaluation,
    GoldenReference,
    InputContract,
    Measured,
    ModelCard,
    OutputContract,
    PredictedLatency,
    compose_model_payload,
)
from service.cli.bills import image_bom, is_complete
from service.cli.bills_maker import MakerBomError, read_maker_bom

SCHEMA = JsonStrictValidator(SchemaVersion.V1_6)
COMPONENT_ID = "11111111-1111-4111-8111-111111111111"
GOLDEN = "cd" * 32


def image(slot: Slot, payload: bytes = b"code", name: str = "runtime@1.2.0") -> VerifiedImage:
    """A verified image with some payload."""
    info = ImageInfo(
        image_type=IMAGE_TYPE[slot.kind],
        component_id=COMPONENT_ID,
        image_id=str(uuid.uuid5(uuid.UUID(COMPONENT_ID), name)),
        name=name,
        security_version=1,
        built_at=datetime(2026, 11, 23, 4, 30, tzinfo=UTC),
    )
    return VerifiedImage(info, digest_of(payload), payload, bytes(32))


def model(**changes: object) -> VerifiedImage:
    """A model's image with a full card, or with something else on it."""
    facts: dict[str, Any] = {
        "name": "person",
        "version": "2.0.0",
        "component_id": COMPONENT_ID,
        "core": Core.M4_0,
        "input": InputContract(shape=(1, 96, 96, 1), dtype="int8"),
        "output": OutputContract(shape=(1, 2), dtype="int8"),
        "labels": ("person", "none"),
        "measured": Measured(model_bytes=4, arena_bytes=8, macs=1),
        "latency": (PredictedLatency(profile="cmsis-nn", milliseconds=95.0, error_share=0.35),),
        "golden": GoldenReference(component_id=COMPONENT_ID, sha256=GOLDEN, vectors=2),
        "evaluation": (Evaluation(dataset="VWW", metric="accuracy", value=0.85, samples=100),),
        "requires": {"runtime": ">=1.2"},
        "description": "Sees people.",
        "licence": "Apache-2.0",
        "licence_notes": "Name the authors.",
        "trained_on": "Visual Wake Words",
        "evaluated_on": "VWW, held out",
    }
    payload = compose_model_payload(ModelCard(**(facts | changes)), bytes(4))
    return image(Slot.M4_0_MODEL, payload, "person@2.0.0")


def maker(**changes: object) -> dict[str, Any]:
    """A maker's own bill, as a build tool writes it."""
    whole: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
        "version": 3,
        "metadata": {
            "timestamp": "2026-11-01T00:00:00Z",
            "tools": {"components": [{"type": "application", "name": "maker"}]},
            "component": {"type": "firmware", "name": "vendor-runtime", "bom-ref": "whole"},
        },
        "components": [
            {
                "type": "library", "name": "FreeRTOS", "version": "11.1.0", "bom-ref": "rtos",
                "purl": "pkg:github/FreeRTOS/FreeRTOS-Kernel@11.1.0", "evidence": {"identity": {}},
                "licenses": [{"license": {"id": "MIT", "acknowledgement": "declared"}}],
                "supplier": {"name": "Amazon", "address": {"country": "US"}},
            },
            {"type": "library", "name": "tflite-micro", "cpe": "cpe:2.3:a:x:y:1:*:*:*:*:*:*:*", "components": []},
        ],
        "dependencies": [{"ref": "whole", "dependsOn": ["rtos"]}],
        "compositions": [{"aggregate": "complete", "assemblies": ["whole"]}],
    }  # fmt: skip
    return whole | changes


def taken(document: object) -> Bom:
    """The image's bill above a maker's own."""
    content = image_bom(Slot.M4_0_FIRMWARE, image(Slot.M4_0_FIRMWARE), maker=read_maker_bom(encoded(document)))
    assert SCHEMA.validate_str(content.decode()) is None
    return read_bom(content)


def encoded(document: object) -> bytes:
    """JSON."""
    return json.dumps(document).encode()


def test_image_of_which_nobody_says_more_has_an_honest_bill() -> None:
    """It names the image alone, and says that it is incomplete."""
    firmware = image(Slot.M4_0_FIRMWARE)
    content = image_bom(Slot.M4_0_FIRMWARE, firmware, supplier="Demo")
    assert SCHEMA.validate_str(content.decode()) is None
    bom = read_bom(content)
    component = bom.metadata.component
    assert (component.type, component.name, component.version) == (ComponentType.FIRMWARE, "runtime", "1.2.0")
    assert component.supplier is not None
    assert component.supplier.name == "Demo"
    assert component.hashes[0].content == firmware.digest
    assert bom.compositions[0].aggregate is Aggregate.INCOMPLETE
    assert not is_complete(bom)


def test_equal_images_have_equal_bills() -> None:
    """Bytes, serial number and time follow from the image and its maker's bill."""
    make = partial(image_bom, Slot.M4_0_FIRMWARE, image(Slot.M4_0_FIRMWARE))
    bill = read_maker_bom(encoded(maker()))
    assert make() == make()
    assert make(maker=bill) == make(maker=bill)
    serials = {read_bom(make()).serial_number, read_bom(make(maker=bill)).serial_number}
    assert len(serials) == 2
    other = image_bom(Slot.M4_0_FIRMWARE, image(Slot.M4_0_FIRMWARE, b"other"))
    assert read_bom(other).serial_number not in serials


@pytest.mark.parametrize("slot", [slot for slot in Slot if slot not in (Slot.M4_0_MODEL, Slot.M4_1_MODEL)])
def test_every_kind_of_image_has_a_valid_bill(slot: Slot) -> None:
    """CycloneDX has a type for each."""
    assert SCHEMA.validate_str(image_bom(slot, image(slot)).decode()) is None


def test_bill_of_a_model_is_made_from_its_card() -> None:
    """An ML-BOM: task, tensors, figures, data, licence."""
    content = image_bom(Slot.M4_0_MODEL, model())
    assert SCHEMA.validate_str(content.decode()) is None
    bom = read_bom(content)
    component = bom.metadata.component
    assert component.type is ComponentType.MODEL
    card = json.loads(content)["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["inputs"] == [{"format": "int8[1,96,96,1]"}]
    assert card["modelParameters"]["outputs"] == [{"format": "int8[1,2]: one value for each of person, none"}]
    assert {"type": "accuracy", "value": "0.85", "slice": "VWW, 100 samples"} in (
        card["quantitativeAnalysis"]["performanceMetrics"]
    )
    assert "Requires runtime >=1.2 beside it." in card["considerations"]["technicalLimitations"]
    assert [each.bom_ref for each in bom.components] == [
        "data-trained-on", "data-evaluated-on", "data-golden-vectors",
    ]  # fmt: skip
    assert bom.components[2].hashes[0].content == GOLDEN
    assert is_complete(bom)


def test_bill_of_a_model_with_little_on_its_card_is_incomplete() -> None:
    """Nobody says what it was trained on; a licence that SPDX does not know keeps its name."""
    bare = model(trained_on="", evaluated_on="", golden=None, evaluation=(), latency=(), requires={}, output=None,
                 licence="of our own", licence_notes="", description="")  # fmt: skip
    content = image_bom(Slot.M4_0_MODEL, bare)
    assert SCHEMA.validate_str(content.decode()) is None
    bom = read_bom(content)
    assert not is_complete(bom)
    assert bom.metadata.component.licenses[0].license is not None
    assert bom.metadata.component.licenses[0].license.name == "of our own"
    expression = read_bom(image_bom(Slot.M4_0_MODEL, model(licence="MIT OR Apache-2.0"))).metadata.component
    assert expression.licenses[0].expression == "MIT OR Apache-2.0"
    assert read_bom(image_bom(Slot.M4_0_MODEL, model(licence=""))).metadata.component.licenses == ()


def test_text_that_no_terminal_shows_gives_our_error() -> None:
    """A card may hold any text; a bill holds what can be shown."""
    with pytest.raises(BomError, match=r"expected what CycloneDX takes, found: .*printable"):
        image_bom(Slot.M4_0_MODEL, model(licence="x\x1b[2J"))


def test_makers_bill_stands_below_the_image() -> None:
    """Its whole, its parts, its dependencies and its word on completeness; other names are left out and counted."""
    read = read_maker_bom(encoded(maker()))
    assert read.left_out == {
        "$schema": 1, "timestamp": 1, "tools": 1, "evidence": 1, "acknowledgement": 1, "address": 1,
    }  # fmt: skip
    bom = taken(maker())
    assert [each.name for each in every_component(bom)] == ["runtime", "vendor-runtime", "FreeRTOS", "tflite-micro"]
    assert bom.components[2].bom_ref == "component-2"
    assert bom.dependencies[0].depends_on == ("whole",)
    assert is_complete(bom)


def test_makers_bill_without_a_whole_or_a_word_on_completeness() -> None:
    """The image needs each part; how complete they are is unknown."""
    bom = taken(maker(metadata={}, dependencies=[], compositions=[]))
    assert bom.dependencies[0].depends_on == ("rtos", "component-1")
    assert bom.compositions[0].aggregate is Aggregate.UNKNOWN
    for said in ({"aggregate": "incomplete"}, {"aggregate": "incomplete", "assemblies": ["rtos"]}):
        assert not is_complete(taken(maker(metadata={}, dependencies=[], compositions=[said])))
    assert is_complete(taken(maker(metadata={}, dependencies=[], compositions=[{"aggregate": "complete"}])))


def _changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    document = maker()
    change(document)
    return encoded(document)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"\xff", "expected CycloneDX in JSON"),
    "not an object": (b"[1]", "_MakerDocument"),
    "huge": (b" " * (MAX_BOM_BYTES + 1), f"at most {MAX_BOM_BYTES} bytes"),
    "brackets without end": (b"[" * 1_000_000, "expected CycloneDX in JSON"),
    "SPDX": (encoded({"spdxVersion": "SPDX-2.3"}), "Field required"),
    "newer CycloneDX": (_changed(lambda bom: bom.update(specVersion="1.7")), "specVersion"),
    "a name of nobody's": (_changed(lambda bom: bom.update(surprise=1)), "surprise"),
    "purl garbage": (_changed(lambda bom: bom["components"][0].update(purl="pkg:/@")), "expected a package URL"),
    "components that are text": (_changed(lambda bom: bom.update(components="x")), "components"),
    "false licence": (
        _changed(lambda bom: bom["components"][0].update(licenses=[{"license": {"id": "Mine-1.0"}}])),
        "expected an SPDX licence id",
    ),
    "many": (
        encoded(maker(components=[{"type": "library", "name": "n"}] * 10_001)),
        "at most 10000 items",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_makers_bill_is_refused(case: str) -> None:
    """Our error, by what is wrong."""
    content, message = HOSTILE[case]
    with pytest.raises(MakerBomError, match=message):
        read_maker_bom(content)


def test_makers_bill_that_is_nested_too_deeply_is_refused() -> None:
    """Of a hundred levels, and of a hundred thousand."""
    component: dict[str, Any] = {"type": "library", "name": "n"}
    for _ in range(100):
        component = {"type": "library", "name": "n", "components": [component]}
    with pytest.raises(MakerBomError, match="BOM: "):
        read_maker_bom(encoded(maker(components=[component])))
    deep = b'{"components":[' * 100_000
    with pytest.raises(MakerBomError, match="expected CycloneDX in JSON"):
        read_maker_bom(deep)


def test_makers_references_that_are_the_images_or_stand_twice_are_refused() -> None:
    """Nobody takes the image's place in its own bill."""
    own = image(Slot.M4_0_FIRMWARE).info.image_id
    for reference, message in ((own, own), ("whole", "whole")):
        with pytest.raises(BomError, match=f"reference '{message}': expected once, found twice"):
            taken(maker(components=[{"type": "library", "name": "n", "bom-ref": reference}], dependencies=[]))
    with pytest.raises(BomError, match="reference 'service': expected a component"):
        taken(maker(dependencies=[{"ref": "whole", "dependsOn": ["service"]}], services=[{"bom-ref": "service"}]))
