"""Which devices: filters over attributes, and over the images, releases and models that devices run.

    attribute: region, is: eu                                     has this value
    attribute: ring, in: [a, b]                                   has one of these
    installed: m4-0/model, name: person, below: "2.1"             runs an older version of the image
    installed: m4-0/model, component: 6f1e…                       runs any build of the component
    release: spring                                               runs every image of the release
    model: m4-0, label: person                                    runs a model with this label
    model: m4-0, fact: arena_bytes, at_least: 100000              runs a model of at least this size
    all: […]    any: […]    not: …                                of filters

A device that lacks an attribute, or runs no image that is known there, does not match what asks for it, and matches its
`not`. Versions are compared as protocol/versions.py says; a version that cannot be compared is neither below nor above.
"""

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, Self

from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from protocol.attributes import AttributeName, AttributeValue
from protocol.document import Document
from protocol.geometry import Core, Slot
from protocol.model import Guid, ModelFacts, ModelKind
from protocol.sensing import SensorKind
from protocol.updates import ReleaseName
from protocol.versions import Build, ImageName

MAX_VALUES = 64
MAX_PARTS = 16
MAX_DEPTH = 5
MAX_TESTS = 64


def _check_version(value: str) -> str:
    try:
        Version(value)
    except InvalidVersion as error:
        raise ValueError("expected a version such as 2.1, found another text") from error
    return value


VersionText = Annotated[str, Field(min_length=1, max_length=30), AfterValidator(_check_version)]


class Filter(Document):
    """Base of all filters; written by the names of plans."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)


class AttributeTest(Filter):
    """A device's attribute has one of some values.

    Attributes:
        attribute: its name.
        equals: the value, or None.
        one_of: the values, or None.
    """

    attribute: AttributeName
    equals: Annotated[AttributeValue | None, Field(alias="is")] = None
    one_of: Annotated[tuple[AttributeValue, ...] | None, Field(alias="in", min_length=1, max_length=MAX_VALUES)] = None

    @model_validator(mode="after")
    def _check_values(self) -> Self:
        if (self.equals is None) == (self.one_of is None):
            raise ValueError("attribute: expected either is or in beside it, found both or none")
        return self

    @property
    def values(self) -> tuple[str, ...]:
        """The values that will do."""
        return (self.equals,) if self.equals is not None else (self.one_of or ())


class InstalledTest(Filter):
    """A device runs an image, of some versions or any.

    Attributes:
        installed: the slot that it runs in.
        component: what it is a build of, or None.
        name: of the image, without its version, or None.
        equals: its version, or None.
        below: above its version, or None.
        at_least: its version or one below it, or None.
    """

    installed: Slot
    component: Guid | None = None
    name: ImageName | None = None
    equals: Annotated[VersionText | None, Field(alias="is")] = None
    below: VersionText | None = None
    at_least: VersionText | None = None

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if (self.component is None) == (self.name is None):
            raise ValueError("installed: expected either component or name beside it, found both or none")
        if self.equals is not None and (self.below is not None or self.at_least is not None):
            raise ValueError("installed: expected is alone, found it beside below or at_least")
        return self

    def takes(self, build: Build) -> bool:
        """Say whether a build of an image will do, wherever it runs."""
        if self.component not in (None, build.component_id):
            return False
        if self.name not in (None, build.name.partition("@")[0]):
            return False
        bounds = [text for text in (self.equals, self.below, self.at_least) if text is not None]
        version = build.version
        if not bounds or version is None:
            return not bounds
        return (
            (self.equals is None or version == Version(self.equals))
            and (self.below is None or version < Version(self.below))
            and (self.at_least is None or version >= Version(self.at_least))
        )


class ReleaseTest(Filter):
    """A device runs every image of a release, whoever brought it.

    Attributes:
        release: its name.
    """

    release: ReleaseName


class ModelFact(StrEnum):
    """A figure of a model's card that packing has measured."""

    MODEL_BYTES = "model_bytes"
    ARENA_BYTES = "arena_bytes"
    FLASH_BYTES = "flash_bytes"
    MACS = "macs"


Figure = Annotated[int, Field(ge=0, le=1 << 53)]


class ModelTest(Filter):
    """A device runs a model whose card says all of this.

    Attributes:
        model: the core that it runs on.
        kind: what the model is, or None.
        sensor: that it listens to, or None.
        label: one of those it answers with, or None.
        licence: as the card has it, or None.
        fact: a figure that the bounds are of, or None.
        below: above the figure, or None.
        at_least: the figure, or one below it, or None.
    """

    model: Core
    kind: ModelKind | None = None
    sensor: SensorKind | None = None
    label: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    licence: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    fact: ModelFact | None = None
    below: Figure | None = None
    at_least: Figure | None = None

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        if self.model is Core.A7:
            raise ValueError("model: expected m4-0 or m4-1, found a7, which runs none")
        is_bounded = self.below is not None or self.at_least is not None
        if (self.fact is not None) != is_bounded:
            raise ValueError("model: expected fact with below or at_least beside it, found one without the other")
        if all(each is None for each in (self.kind, self.sensor, self.label, self.licence, self.fact)):
            raise ValueError("model: expected one of kind, sensor, label, licence and fact beside it, found none")
        return self

    @property
    def slot(self) -> Slot:
        """The slot of the model."""
        return Slot(f"{self.model}/model")

    def takes(self, facts: ModelFacts) -> bool:
        """Say whether a model will do, wherever it runs."""
        said = ((self.kind, facts.kind), (self.sensor, facts.sensor), (self.licence, facts.licence))
        if any(wanted not in (None, found) for wanted, found in said):
            return False
        if self.label is not None and self.label not in facts.labels:
            return False
        if self.fact is None:
            return True
        figure: int = getattr(facts, self.fact)
        return (self.below is None or figure < self.below) and (self.at_least is None or figure >= self.at_least)


class AllOf(Filter):
    """Every part matches."""

    parts: Annotated[tuple["Target", ...], Field(alias="all", min_length=1, max_length=MAX_PARTS)]


class AnyOf(Filter):
    """At least one part matches."""

    parts: Annotated[tuple["Target", ...], Field(alias="any", min_length=1, max_length=MAX_PARTS)]


class NotOf(Filter):
    """The part does not match."""

    part: Annotated["Target", Field(alias="not")]


_KINDS: tuple[tuple[str, type[Filter]], ...] = (
    ("attribute", AttributeTest),
    ("installed", InstalledTest),
    ("release", ReleaseTest),
    ("model", ModelTest),
    ("all", AllOf),
    ("any", AnyOf),
    ("not", NotOf),
)


def _kind(value: Any) -> str | None:  # noqa: ANN401 - whatever a plan says
    if isinstance(value, dict):
        return next((kind for kind, _ in _KINDS if kind in value), None)
    return next((kind for kind, of in _KINDS if isinstance(value, of)), None)


Target = Annotated[
    Annotated[AttributeTest, Tag("attribute")]
    | Annotated[InstalledTest, Tag("installed")]
    | Annotated[ReleaseTest, Tag("release")]
    | Annotated[ModelTest, Tag("model")]
    | Annotated[AllOf, Tag("all")]
    | Annotated[AnyOf, Tag("any")]
    | Annotated[NotOf, Tag("not")],
    Discriminator(
        _kind,
        custom_error_type="filter",
        custom_error_message="expected one of attribute, installed, release, model, all, any and not, found none",
    ),
]
"""A filter of any kind."""

AllOf.model_rebuild()
AnyOf.model_rebuild()
NotOf.model_rebuild()


ImageTest = InstalledTest | ReleaseTest | ModelTest
"""A test of what a device runs."""


def leaves_of(target: "Target") -> Iterator[AttributeTest | ImageTest]:
    """Yield the tests that a filter is made of."""
    if isinstance(target, AttributeTest | ImageTest):
        yield target
    else:
        for part in parts_of(target):
            yield from leaves_of(part)


def parts_of(target: "Target") -> tuple["Target", ...]:
    """Return the filters that a filter is made of; none of a test."""
    match target:
        case AllOf() | AnyOf():
            return target.parts
        case NotOf():
            return (target.part,)
    return ()


def check_size(target: "Target | None") -> "Target | None":
    """Return a filter that is not too deep and not too large.

    Raises:
        ValueError: it is.
    """
    if target is None:
        return None
    if (depth := _depth(target)) > MAX_DEPTH:
        raise ValueError(f"filter: expected at most {MAX_DEPTH} levels, found {depth}")
    if (tests := sum(1 for _ in leaves_of(target))) > MAX_TESTS:
        raise ValueError(f"filter: expected at most {MAX_TESTS} tests, found {tests}")
    return target


def _depth(target: "Target") -> int:
    return 1 + max(map(_depth, parts_of(target)), default=0)


BoundedTarget = Annotated[Target | None, AfterValidator(check_size)]
