"""A maker's own bill of materials, taken in under the image that it belongs to.

Reading one, in this order:
    1. length: at most `MAX_BOM_BYTES`;
    2. form: JSON; what CycloneDX has and tinyfleet does not keep is left out, and counted;
    3. CycloneDX 1.4 to 1.6; a name that is not CycloneDX's and a value of the wrong form are refused, and so are more
       than `MAX_COMPONENTS` components or ones nested more than `MAX_DEPTH` deep.
References are checked once the bill is below its image (`service.cli.bills`).
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from protocol.cyclonedx import (
    MAX_BOM_BYTES,
    MAX_COMPONENTS,
    Aggregate,
    Component,
    Components,
    Composition,
    Dependency,
    Part,
    check_size,
)
from protocol.document import DocumentError, parse_document
from protocol.image import digest_of
from service.cli.errors import CliError

_COMPONENT = frozenset(
    {
        "swid", "omniborId", "swhid", "modified", "pedigree", "evidence", "releaseNotes", "cryptoProperties",
        "signature", "modelCard", "data",
    }
)  # fmt: skip
_ORGANIZATION = frozenset({"bom-ref", "address"})
# By the name under which a part stands: what CycloneDX 1.4 to 1.6 has there and is left out here.
_LEFT_OUT: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "": frozenset(
            {
                "$schema", "services", "externalReferences", "vulnerabilities", "annotations", "formulation",
                "declarations", "definitions", "properties", "signature",
            }
        ),
        "metadata": frozenset(
            {
                "timestamp", "lifecycles", "tools", "manufacturer", "manufacture", "authors", "supplier", "licenses",
                "properties",
            }
        ),
        "component": _COMPONENT,
        "components": _COMPONENT,
        "supplier": _ORGANIZATION,
        "manufacturer": _ORGANIZATION,
        "contact": frozenset({"bom-ref"}),
        "authors": frozenset({"bom-ref"}),
        "license": frozenset({"bom-ref", "acknowledgement", "text", "licensing", "properties"}),
        "licenses": frozenset({"bom-ref", "acknowledgement"}),
        "dependencies": frozenset({"provides"}),
        "compositions": frozenset({"bom-ref", "vulnerabilities", "signature"}),
    }
)  # fmt: skip


class MakerBomError(CliError):
    """A maker's bill of materials cannot be taken in."""


class _MakerMetadata(Part):
    component: Component | None = None


class _MakerDocument(Part):
    bom_format: Literal["CycloneDX"]
    spec_version: Literal["1.4", "1.5", "1.6"]
    serial_number: str | None = None
    version: int = 1
    metadata: _MakerMetadata = _MakerMetadata()
    components: Components = ()
    dependencies: Annotated[tuple[Dependency, ...], Field(max_length=2 * MAX_COMPONENTS)] = ()
    compositions: Annotated[tuple[Composition, ...], Field(max_length=1000)] = ()


@dataclass(frozen=True, slots=True)
class MakerBom:
    """A maker's bill of materials.

    Attributes:
        whole: the maker's name for all of it, or None.
        components: what is inside.
        left_out: how often each name was left out.
        sha256: of the maker's file.
    """

    whole: Component | None
    components: tuple[Component, ...]
    dependencies: tuple[Dependency, ...]
    compositions: tuple[Composition, ...]
    left_out: Mapping[str, int]
    sha256: str

    @property
    def aggregate(self) -> Aggregate:
        """How complete the maker says that it is."""
        whole = None if self.whole is None else self.whole.bom_ref
        for each in self.compositions:
            named = (*each.assemblies, *each.dependencies)
            if not named or whole in named:
                return each.aggregate
        return Aggregate.UNKNOWN


def load_maker_bom(path: Path) -> MakerBom:
    """Read a maker's bill of materials from a file.

    Raises:
        MakerBomError: it cannot be read, or breaks a rule of the module's docstring.
    """
    try:
        with path.open("rb") as file:
            return read_maker_bom(file.read(MAX_BOM_BYTES + 1))
    except OSError as error:
        raise MakerBomError(f"{path}: expected a readable file, found: {error.strerror}") from error


def read_maker_bom(unverified: bytes) -> MakerBom:
    """Read a maker's bill of materials.

    Raises:
        MakerBomError: it breaks a rule of the module's docstring.
    """
    # Step 1: length.
    if len(unverified) > MAX_BOM_BYTES:
        raise MakerBomError(f"BOM: expected at most {MAX_BOM_BYTES} bytes, found more")
    # Step 2: form.
    try:
        kept, left_out = _kept(json.loads(unverified))
    except (ValueError, RecursionError) as error:
        raise MakerBomError(f"BOM: expected CycloneDX in JSON, found {type(error).__name__}") from error
    # Step 3: CycloneDX.
    try:
        document = parse_document(kept, _MakerDocument, max_bytes=6 * MAX_BOM_BYTES)  # escapes are longer than UTF-8
        check_size(_all(document))
    except DocumentError as error:
        raise MakerBomError(f"BOM: {error}") from error
    return MakerBom(
        whole=document.metadata.component,
        components=document.components,
        dependencies=document.dependencies,
        compositions=document.compositions,
        left_out=left_out,
        sha256=digest_of(unverified),
    )


def _all(document: _MakerDocument) -> tuple[Component, ...]:
    whole = document.metadata.component
    return document.components if whole is None else (whole, *document.components)


def _kept(document: object) -> tuple[bytes, Mapping[str, int]]:
    left_out = Counter[str]()
    waiting = [("", document)]
    while waiting:
        name, part = waiting.pop()
        if isinstance(part, list):
            waiting += ((name, each) for each in part)
        elif isinstance(part, dict):
            for unkept in _LEFT_OUT.get(name, frozenset()) & part.keys():
                del part[unkept]
                left_out[unkept] += 1
            waiting += part.items()
    return json.dumps(document).encode(), left_out
