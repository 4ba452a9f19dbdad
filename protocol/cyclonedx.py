"""What tinyfleet reads and writes of CycloneDX 1.6 (ECMA-424): bills of materials and exploitability statements.

A bill of materials (BOM) names one image in `metadata.component` and, below it, what is inside; of an ML model it holds
the model card. An exploitability document (VEX) says, for components of a release, what a vulnerability means to them.
Both are strict and bounded. The bytes are canonical JSON, so that two readers never see two documents.

Verification of unverified bytes, in this order (`read_bom`, `read_vex`):
    1. length: at most `MAX_BOM_BYTES`, or `MAX_VEX_BYTES`;
    2. form: the types below and no other names; at most `MAX_COMPONENTS`, nested at most `MAX_DEPTH` deep; statements
       about at most `MAX_AFFECTED` components in all;
    3. canonical: the bytes are the canonical JSON of what was read: no name stands twice;
    4. references: each `bom-ref` stands once, and what refers to one finds it.
Who signed it is not asked here: the Image targets metadata that lists its hash does.
"""

from collections.abc import Hashable, Iterable, Iterator
from enum import StrEnum
from typing import Annotated, Literal, Self, TypeVar
from unicodedata import category

from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL
from pydantic import (
    AfterValidator,
    ConfigDict,
    FailFast,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from protocol.document import Document, DocumentError, Moment, Printable, canonical_json, parse_document

MAX_BOM_BYTES = 4 * 1024 * 1024
MAX_VEX_BYTES = 512 * 1024  # one statement about 1,000 components fits
MAX_COMPONENTS = 10_000
MAX_DEPTH = 16
MAX_STATEMENTS = 1000
MAX_AFFECTED = 10_000
_MAX_ITEMS = 1000


class BomError(DocumentError):
    """A bill of materials or an exploitability document breaks a rule of its form."""


ItemT = TypeVar("ItemT", bound=Hashable)


def _check_purl(value: str) -> str:
    try:
        PackageURL.from_string(value)
    except ValueError as error:
        raise ValueError("expected a package URL such as pkg:generic/name@1.0, found another text") from error
    return value


def _check_text(value: str) -> str:
    if any(category(each) == "Cc" and each not in "\t\n" for each in value):
        raise ValueError("expected no control characters but tabs and newlines, found another")
    return value


def _check_licence_id(value: str) -> str:
    if not is_supported_id(value):
        raise ValueError("expected an SPDX licence id, found another text")
    return value


def _check_unique(values: tuple[ItemT, ...]) -> tuple[ItemT, ...]:
    if len(set(values)) != len(values):
        raise ValueError("expected each once, found one twice")
    return values


Word = Annotated[Printable, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=10_000), AfterValidator(_check_text)]
Reference = Annotated[Printable, Field(min_length=1, max_length=300)]
# FailFast: the first wrong item decides; an error for each of a million would stop the service for minutes.
Some = Annotated[tuple[ItemT, ...], Field(max_length=_MAX_ITEMS), FailFast()]
Many = Annotated[tuple[ItemT, ...], Field(max_length=MAX_COMPONENTS), FailFast()]
References = Annotated[Many[Reference], AfterValidator(_check_unique)]
Version = Annotated[Printable, Field(max_length=100)]
Purl = Annotated[str, Field(max_length=300), AfterValidator(_check_purl)]
LicenceId = Annotated[str, Field(max_length=100), AfterValidator(_check_licence_id)]
SerialNumber = Annotated[str, Field(pattern=r"^urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
Address = Annotated[str, Field(max_length=2000, pattern=r"^[!#-;=?-\[\]_a-z~]+$")]  # what RFC 3986 lets a URI hold
Vulnerability = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class ComponentType(StrEnum):
    """What a component is."""

    APPLICATION = "application"
    FRAMEWORK = "framework"
    LIBRARY = "library"
    CONTAINER = "container"
    PLATFORM = "platform"
    OPERATING_SYSTEM = "operating-system"
    DEVICE = "device"
    DEVICE_DRIVER = "device-driver"
    FIRMWARE = "firmware"
    FILE = "file"
    MODEL = "machine-learning-model"
    DATA = "data"
    CRYPTOGRAPHIC_ASSET = "cryptographic-asset"


class Aggregate(StrEnum):
    """How much of what belongs there is listed."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    INCOMPLETE_FIRST_PARTY_ONLY = "incomplete_first_party_only"
    INCOMPLETE_FIRST_PARTY_PROPRIETARY_ONLY = "incomplete_first_party_proprietary_only"
    INCOMPLETE_FIRST_PARTY_OPENSOURCE_ONLY = "incomplete_first_party_opensource_only"
    INCOMPLETE_THIRD_PARTY_ONLY = "incomplete_third_party_only"
    INCOMPLETE_THIRD_PARTY_PROPRIETARY_ONLY = "incomplete_third_party_proprietary_only"
    INCOMPLETE_THIRD_PARTY_OPENSOURCE_ONLY = "incomplete_third_party_opensource_only"
    UNKNOWN = "unknown"
    NOT_SPECIFIED = "not_specified"


class AnalysisState(StrEnum):
    """What a vulnerability means to a component."""

    RESOLVED = "resolved"
    RESOLVED_WITH_PEDIGREE = "resolved_with_pedigree"
    EXPLOITABLE = "exploitable"
    IN_TRIAGE = "in_triage"
    FALSE_POSITIVE = "false_positive"
    NOT_AFFECTED = "not_affected"


class Justification(StrEnum):
    """Why a component is not affected."""

    CODE_NOT_PRESENT = "code_not_present"
    CODE_NOT_REACHABLE = "code_not_reachable"
    REQUIRES_CONFIGURATION = "requires_configuration"
    REQUIRES_DEPENDENCY = "requires_dependency"
    REQUIRES_ENVIRONMENT = "requires_environment"
    PROTECTED_BY_COMPILER = "protected_by_compiler"
    PROTECTED_AT_RUNTIME = "protected_at_runtime"
    PROTECTED_AT_PERIMETER = "protected_at_perimeter"
    PROTECTED_BY_MITIGATING_CONTROL = "protected_by_mitigating_control"


class Part(Document):
    """A part of a document: camelCase names on the wire, and nothing written that was not said."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True)

    @model_serializer(mode="wrap")
    def _said(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {name: value for name, value in handler(self).items() if value is not None and value != []}


class Hash(Part):
    """A digest of a component."""

    alg: Literal[
        "MD5", "SHA-1", "SHA-256", "SHA-384", "SHA-512", "SHA3-256", "SHA3-384", "SHA3-512",
        "BLAKE2b-256", "BLAKE2b-384", "BLAKE2b-512", "BLAKE3",
    ]  # fmt: skip
    content: Annotated[str, Field(pattern=r"^([0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$")]


class Property(Part):
    """A name and a value of somebody's own."""

    name: Word
    value: Text | None = None


class Contact(Part):
    """A person."""

    name: Word | None = None
    email: Word | None = None
    phone: Word | None = None


class Organization(Part):
    """A maker or supplier."""

    name: Word | None = None
    url: Some[Address] = ()
    contact: Some[Contact] = ()


class Licence(Part):
    """A licence by SPDX id, or by a name that SPDX does not know."""

    id: LicenceId | None = None
    name: Word | None = None
    url: Address | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.id is None) == (self.name is None):
            raise ValueError("expected an SPDX id or a name, found both or neither")
        return self


class LicenceChoice(Part):
    """A licence, or an SPDX expression of several."""

    license: Licence | None = None
    expression: Word | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.license is None) == (self.expression is None):
            raise ValueError("expected a licence or an expression, found both or neither")
        return self


Licences = Some[LicenceChoice]


class ExternalReference(Part):
    """Where more is said of a component."""

    type: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,40}$")]
    url: Address
    comment: Text | None = None
    hashes: Some[Hash] = ()


class Dataset(Part):
    """What a data component holds."""

    type: Literal["source-code", "configuration", "dataset", "definition", "other"] = "dataset"
    name: Word | None = None
    description: Text | None = None


class DataReference(Part):
    """A data component, by its reference."""

    ref: Reference


class TensorFormat(Part):
    """The form of an input or output."""

    format: Text


class ModelParameters(Part):
    """What a model does, of what it was made, what goes in and comes out."""

    task: Word | None = None
    architecture_family: Word | None = None
    model_architecture: Word | None = None
    datasets: Some[DataReference] = ()
    inputs: Some[TensorFormat] = ()
    outputs: Some[TensorFormat] = ()


class PerformanceMetric(Part):
    """One figure of a model's evaluation."""

    type: Text
    value: Text
    slice: Text | None = None


class QuantitativeAnalysis(Part):
    """The figures of a model's evaluation."""

    performance_metrics: Some[PerformanceMetric] = ()


class Considerations(Part):
    """What to mind when a model is used."""

    use_cases: Some[Text] = ()
    technical_limitations: Some[Text] = ()


class BomModelCard(Part):
    """CycloneDX's model card."""

    model_parameters: ModelParameters | None = None
    quantitative_analysis: QuantitativeAnalysis | None = None
    considerations: Considerations | None = None
    properties: Some[Property] = ()


class Component(Part):
    """Something that an image is, or holds."""

    type: ComponentType
    bom_ref: Annotated[Reference | None, Field(alias="bom-ref")] = None
    mime_type: Annotated[Word | None, Field(alias="mime-type")] = None
    supplier: Organization | None = None
    manufacturer: Organization | None = None
    authors: Some[Contact] = ()
    author: Word | None = None
    publisher: Word | None = None
    group: Word | None = None
    name: Word
    version: Version | None = None
    description: Text | None = None
    scope: Literal["required", "optional", "excluded"] | None = None
    hashes: Some[Hash] = ()
    licenses: Licences = ()
    copyright: Text | None = None
    cpe: Annotated[Printable, Field(max_length=300)] | None = None
    purl: Purl | None = None
    external_references: Some[ExternalReference] = ()
    components: Many["Component"] = ()
    data: Some[Dataset] = ()
    model_card: BomModelCard | None = None
    properties: Some[Property] = ()
    tags: Some[Word] = ()


Components = Many[Component]


class Dependency(Part):
    """What a component needs."""

    ref: Reference
    depends_on: References = ()


class Composition(Part):
    """How complete what is said of some components is."""

    aggregate: Aggregate
    assemblies: References = ()
    dependencies: References = ()


class Metadata(Part):
    """What a document is about."""

    timestamp: Moment
    component: Component
    supplier: Organization | None = None
    properties: Some[Property] = ()


class _Head(Part):
    bom_format: Literal["CycloneDX"] = "CycloneDX"
    spec_version: Literal["1.6"] = "1.6"
    serial_number: SerialNumber
    version: Literal[1] = 1
    metadata: Metadata
    components: Components = ()


class Bom(_Head):
    """The bill of materials of one image, which is `metadata.component`."""

    dependencies: Annotated[tuple[Dependency, ...], Field(max_length=2 * MAX_COMPONENTS), FailFast()] = ()
    compositions: Some[Composition] = ()


class Analysis(Part):
    """What a vulnerability means, and why."""

    state: AnalysisState
    justification: Justification | None = None
    detail: Text | None = None


class Affected(Part):
    """A component that a statement is about, by its reference."""

    ref: Reference


class Statement(Part):
    """What one vulnerability means to some components."""

    id: Vulnerability
    analysis: Analysis
    affects: Annotated[Some[Affected], Field(min_length=1), AfterValidator(_check_unique)]


class Vex(_Head):
    """Exploitability statements about a release, which is `metadata.component`."""

    vulnerabilities: Annotated[tuple[Statement, ...], Field(min_length=1, max_length=MAX_STATEMENTS), FailFast()]


HeadT = TypeVar("HeadT", Bom, Vex)


def read_bom(unverified: bytes) -> Bom:
    """Read a bill of materials.

    Raises:
        DocumentError: one of the steps of the module's docstring.
    """
    bom = _read(unverified, Bom, max_bytes=MAX_BOM_BYTES)
    check_references(bom)
    return bom


def read_vex(unverified: bytes) -> Vex:
    """Read an exploitability document.

    Raises:
        DocumentError: one of the steps of the module's docstring.
    """
    vex = _read(unverified, Vex, max_bytes=MAX_VEX_BYTES)
    # Step 2: form.
    if (count := sum(len(each.affects) for each in vex.vulnerabilities)) > MAX_AFFECTED:
        raise BomError(f"Vex: expected statements about at most {MAX_AFFECTED} components in all, found {count}")
    # Step 4: references.
    _require_known(_references(vex), (affected.ref for each in vex.vulnerabilities for affected in each.affects))
    return vex


def check_references(bom: Bom) -> None:
    """Check the references in a bill of materials.

    Raises:
        BomError: step 4 of the module's docstring.
    """
    # Step 4: references.
    known = _references(bom)
    depending = [each.ref for each in bom.dependencies]
    _require_once(depending)
    named = [ref for each in bom.dependencies for ref in each.depends_on]
    named += [ref for each in bom.compositions for ref in (*each.assemblies, *each.dependencies)]
    cards = (each.model_card for each in every_component(bom))
    parameters = (card.model_parameters for card in cards if card is not None)
    named += [data.ref for each in parameters if each is not None for data in each.datasets]
    _require_known(known, [*depending, *named])


def every_component(document: Bom | Vex) -> Iterator[Component]:
    """Yield what a document is about, then every component in it, nested ones after the one that holds them."""
    yield from walk((document.metadata.component, *document.components))


def walk(components: Iterable[Component]) -> Iterator[Component]:
    """Yield components, nested ones after the one that holds them."""
    return (component for component, _depth in _walk(components))


def check_size(components: Iterable[Component]) -> None:
    """Check how many components there are, and how deep.

    Raises:
        BomError: step 2 of the module's docstring.
    """
    # Step 2: form.
    for count, (_component, depth) in enumerate(_walk(components), start=1):
        if count > MAX_COMPONENTS or depth > MAX_DEPTH:
            raise BomError(f"components: expected at most {MAX_COMPONENTS}, {MAX_DEPTH} deep, found more")


def _walk(components: Iterable[Component]) -> Iterator[tuple[Component, int]]:
    waiting = [(component, 1) for component in reversed(tuple(components))]
    while waiting:
        component, depth = waiting.pop()
        yield component, depth
        waiting += ((nested, depth + 1) for nested in reversed(component.components))


def _read(unverified: bytes, form: type[HeadT], *, max_bytes: int) -> HeadT:
    # Steps 1 and 2: length and form.
    document: HeadT = parse_document(unverified, form, max_bytes=max_bytes)
    check_size((document.metadata.component, *document.components))
    # Step 3: canonical.
    if canonical_json(document) != unverified:
        raise BomError(f"{form.__name__}: expected canonical JSON, found the same in other bytes, or a name twice")
    return document


def _references(document: Bom | Vex) -> set[str]:
    found = [component.bom_ref for component in every_component(document) if component.bom_ref is not None]
    _require_once(found)
    return set(found)


def _require_once(references: Iterable[str]) -> None:
    seen = set[str]()
    for reference in references:
        if reference in seen:
            raise BomError(f"reference {reference[:80]!r}: expected once, found twice")
        seen.add(reference)


def _require_known(known: set[str], references: Iterable[str]) -> None:
    for reference in references:
        if reference not in known:
            raise BomError(f"reference {reference[:80]!r}: expected a component of this document, found none")
