"""Bills of materials and exploitability statements: strict, bounded, one form of bytes."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cyclonedx.model.bom import Bom as LibraryBom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st

from protocol.cyclonedx import (
    MAX_AFFECTED,
    MAX_BOM_BYTES,
    MAX_COMPONENTS,
    MAX_DEPTH,
    MAX_VEX_BYTES,
    Affected,
    Aggregate,
    Analysis,
    AnalysisState,
    Bom,
    BomError,
    BomModelCard,
    Component,
    ComponentType,
    Composition,
    DataReference,
    Dataset,
    Dependency,
    Hash,
    Justification,
    Licence,
    LicenceChoice,
    Metadata,
    ModelParameters,
    PerformanceMetric,
    Property,
    QuantitativeAnalysis,
    Statement,
    TensorFormat,
    Vex,
    every_component,
    read_bom,
    read_vex,
)
from protocol.document import DocumentError, canonical_json

SERIAL = "urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79"
MOMENT = datetime(2026, 11, 23, 4, 30, tzinfo=UTC)
SCHEMA = JsonStrictValidator(SchemaVersion.V1_6)


def numbered(*cases: tuple[Callable[[dict[str, Any]], object], str]) -> list[Any]:
    """Cases whose names are their numbers."""
    return [pytest.param(*case, id=str(number)) for number, case in enumerate(cases)]


def image() -> Component:
    """What a bill is of."""
    return Component(
        type=ComponentType.FIRMWARE,
        bom_ref="image",
        name="runtime",
        version="1.2.0",
        hashes=(Hash(alg="SHA-256", content="ab" * 32),),
        purl="pkg:generic/runtime@1.2.0",
        licenses=(LicenceChoice(license=Licence(id="Apache-2.0")),),
        properties=(Property(name="a", value="b"),),
    )


def bill(**changes: object) -> Bom:
    """A bill with two components, one in the other."""
    inner = Component(
        type=ComponentType.LIBRARY,
        bom_ref="inner",
        name="tflm",
        licenses=(LicenceChoice(expression="MIT OR Apache-2.0"),),
    )
    whole: dict[str, Any] = {
        "serial_number": SERIAL,
        "metadata": Metadata(timestamp=MOMENT, component=image()),
        "components": (Component(type=ComponentType.LIBRARY, bom_ref="outer", name="rtos", components=(inner,)),),
        "dependencies": (Dependency(ref="image", depends_on=("outer",)), Dependency(ref="outer")),
        "compositions": (Composition(aggregate=Aggregate.COMPLETE, assemblies=("image",)),),
    }
    return Bom(**(whole | changes))


def vex() -> Vex:
    """A document with one statement."""
    return Vex(
        serial_number=SERIAL,
        metadata=Metadata(timestamp=MOMENT, component=Component(type=ComponentType.FIRMWARE, name="release-1")),
        components=(Component(type=ComponentType.LIBRARY, bom_ref="1", name="tflm", version="1"),),
        vulnerabilities=(
            Statement(
                id="CVE-2026-0001",
                analysis=Analysis(state=AnalysisState.NOT_AFFECTED, justification=Justification.CODE_NOT_PRESENT),
                affects=(Affected(ref="1"),),
            ),
        ),
    )


def spoiled(document: Bom | Vex, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a document's canonical bytes after one change."""
    content = json.loads(canonical_json(document))
    change(content)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def nested(depth: int) -> Component:
    """Components in one another."""
    component = Component(type=ComponentType.LIBRARY, name="n")
    for _ in range(depth - 1):
        component = Component(type=ComponentType.LIBRARY, name="n", components=(component,))
    return component


def test_bill_is_valid_cyclonedx_and_comes_back() -> None:
    """The library's strict JSON schema takes it, and so does its reader."""
    content = canonical_json(bill())
    assert SCHEMA.validate_str(content.decode()) is None
    assert read_bom(content) == bill()
    library = LibraryBom.from_json(json.loads(content))  # type: ignore[attr-defined]  # added by a decorator
    assert [component.name for component in library.components] == ["rtos"]
    assert [component.name for component in every_component(bill())] == ["runtime", "rtos", "tflm"]


def test_exploitability_document_is_valid_cyclonedx_and_comes_back() -> None:
    """As above."""
    content = canonical_json(vex())
    assert SCHEMA.validate_str(content.decode()) is None
    assert read_vex(content) == vex()


def test_model_card_is_valid_cyclonedx_and_its_data_are_components() -> None:
    """A dataset that nothing lists is refused."""
    card = BomModelCard(
        model_parameters=ModelParameters(
            task="classification", datasets=(DataReference(ref="data"),), inputs=(TensorFormat(format="int8[1,96]"),)
        ),
        quantitative_analysis=QuantitativeAnalysis(performance_metrics=(PerformanceMetric(type="top-1", value="0.9"),)),
    )
    model = Component(type=ComponentType.MODEL, name="person", bom_ref="model", model_card=card)
    data = Component(type=ComponentType.DATA, name="vww", bom_ref="data", data=(Dataset(name="vww"),))
    whole = Bom(serial_number=SERIAL, metadata=Metadata(timestamp=MOMENT, component=model), components=(data,))
    assert SCHEMA.validate_str(canonical_json(whole).decode()) is None
    assert read_bom(canonical_json(whole)) == whole
    with pytest.raises(BomError, match="reference 'data': expected a component of this document, found none"):
        read_bom(canonical_json(whole.model_copy(update={"components": ()})))
    bare = model.model_copy(update={"model_card": BomModelCard()})
    read_bom(canonical_json(Bom(serial_number=SERIAL, metadata=Metadata(timestamp=MOMENT, component=bare))))


@pytest.mark.parametrize(
    ("change", "message"),
    numbered(
        (lambda bom: bom.update(specVersion="1.4"), "specVersion"),
        (lambda bom: bom.update(bomFormat="SPDX"), "bomFormat"),
        (lambda bom: bom.update(serialNumber="1"), "serialNumber"),
        (lambda bom: bom.update(surprise=1), "surprise"),
        (lambda bom: bom["components"][0].update(type="toy"), "components.0.type"),
        (lambda bom: bom["components"][0].update(name=""), "components.0.name"),
        (lambda bom: bom["components"][0].update(name="x\x1b[2J"), "expected printable characters"),
        (lambda bom: bom["components"][0].update(purl="pkg:"), "expected a package URL"),
        (lambda bom: bom["components"][0].update(purl="no purl at all"), "expected a package URL"),
        (lambda bom: bom["components"][0].update(purl="pkg:generic/" + "a" * 300), "at most 300 characters"),
        (lambda bom: bom["components"][0].update(licenses=[{"license": {"id": "Mine"}}]), "expected an SPDX licence"),
        (lambda bom: bom["components"][0].update(licenses=[{"license": {}}]), "expected an SPDX id or a name"),
        (lambda bom: bom["components"][0].update(licenses=[{}]), "expected a licence or an expression"),
        (lambda bom: bom["metadata"]["component"]["hashes"][0].update(content="ab"), "content"),
        (lambda bom: bom["metadata"].update(timestamp="2026-11-23T04:30:00"), "timestamp"),
        (lambda bom: bom["compositions"][0].update(assemblies=["image", "image"]), "expected each once"),
    ),
)
def test_bill_with_one_thing_wrong_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    """The message names the field or what was expected."""
    with pytest.raises(DocumentError, match=message):
        read_bom(spoiled(bill(), change))


@pytest.mark.parametrize(
    ("change", "message"),
    numbered(
        (lambda bom: bom["components"][0].update({"bom-ref": "image"}), "reference 'image': expected once"),
        (lambda bom: bom["components"][0].update({"bom-ref": "inner"}), "reference 'inner': expected once"),
        (lambda bom: bom["dependencies"].append({"ref": "image"}), "reference 'image': expected once"),
        (lambda bom: bom["dependencies"].append({"ref": "none"}), "reference 'none': expected a component"),
        (lambda bom: bom["dependencies"][1].update(dependsOn=["none"]), "reference 'none': expected a component"),
        (lambda bom: bom["compositions"][0].update(assemblies=["none"]), "reference 'none': expected a component"),
        (lambda bom: bom["compositions"][0].update(dependencies=["none"]), "reference 'none': expected a component"),
    ),
)
def test_references_that_stand_twice_or_find_nothing_are_refused(
    change: Callable[[dict[str, Any]], object], message: str
) -> None:
    """So that nobody reads another thing into it."""
    with pytest.raises(BomError, match=message):
        read_bom(spoiled(bill(), change))


def test_statement_about_an_unknown_component_is_refused() -> None:
    """It must stand in the same document."""
    with pytest.raises(BomError, match="reference '2': expected a component"):
        read_vex(spoiled(vex(), lambda document: document["vulnerabilities"][0]["affects"].append({"ref": "2"})))


@pytest.mark.parametrize("control", ["\0", "\x1b", "\r", "\x7f", "\x85"])
def test_control_characters_in_texts_are_refused(control: str) -> None:
    """Databases hold no NUL, and terminals obey the others; lines and tabs are text."""

    def say(detail: str) -> bytes:
        return spoiled(vex(), lambda document: document["vulnerabilities"][0]["analysis"].update(detail=detail))

    assert read_vex(say("one\n\ttwo")).vulnerabilities[0].analysis.detail == "one\n\ttwo"
    with pytest.raises(DocumentError, match=r"detail: .*no control characters"):
        read_vex(say(f"a{control}b"))


def test_bytes_that_are_not_canonical_are_refused() -> None:
    """Spaces, another order, a name twice: one reader might see the first, another the last."""
    content = canonical_json(bill())
    twice = content.replace(b'{"bomFormat"', b'{"version":1,"bomFormat"')
    for other in (content + b" ", content.replace(b":1}", b": 1}"), twice):
        with pytest.raises(BomError, match="expected canonical JSON"):
            read_bom(other)


def test_bill_that_is_too_long_too_deep_or_too_large_is_refused() -> None:
    """Before anything walks through it."""
    with pytest.raises(DocumentError, match=f"at most {MAX_BOM_BYTES} bytes"):
        read_bom(b"{" + b" " * MAX_BOM_BYTES)
    read_bom(canonical_json(bill(components=(nested(MAX_DEPTH),), dependencies=())))
    with pytest.raises(BomError, match=f"at most {MAX_COMPONENTS}, {MAX_DEPTH} deep"):
        read_bom(canonical_json(bill(components=(nested(MAX_DEPTH + 1),), dependencies=())))
    half = Component(type=ComponentType.LIBRARY, name="n")
    many = Component(type=ComponentType.LIBRARY, name="n", components=(half,) * (MAX_COMPONENTS // 2))
    with pytest.raises(BomError, match=f"at most {MAX_COMPONENTS}"):
        read_bom(canonical_json(bill(components=(many, many), dependencies=())))


def test_statements_that_are_too_long_or_about_too_much_are_refused() -> None:
    """A page of statements must not hold up whoever reads it, nor fill tables."""
    with pytest.raises(DocumentError, match=f"at most {MAX_VEX_BYTES} bytes"):
        read_vex(b"{" + b" " * MAX_VEX_BYTES)
    components = [{"bom-ref": str(number), "name": "n", "type": "library"} for number in range(1000)]
    affects = [{"ref": str(number)} for number in range(1000)]

    def about(count: int) -> bytes:
        statement = {"id": "CVE-1", "analysis": {"state": "in_triage"}, "affects": affects}
        changes = {"components": components, "vulnerabilities": [statement] * count}
        return spoiled(vex(), lambda document: document.update(changes))

    assert len(read_vex(about(MAX_AFFECTED // 1000)).vulnerabilities) == MAX_AFFECTED // 1000
    with pytest.raises(BomError, match=f"about at most {MAX_AFFECTED} components in all, found {MAX_AFFECTED + 1000}"):
        read_vex(about(MAX_AFFECTED // 1000 + 1))


def test_nesting_that_no_parser_follows_gives_our_error() -> None:
    """Neither a crash nor a traceback."""
    deep = b'{"components":[' * 50_000
    for content in (deep, b"[" * 100_000, b'{"bomFormat":"CycloneDX","metadata":{"component":' + deep):
        with pytest.raises(DocumentError):
            read_bom(content)


@given(st.binary(max_size=200))
def test_any_bytes_give_our_error(content: bytes) -> None:
    """Nothing but a DocumentError comes out."""
    for read in (read_bom, read_vex):
        with pytest.raises(DocumentError):
            read(content)
