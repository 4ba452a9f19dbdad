"""The card that a model's author writes, card.yaml, and the model card that packing makes of it.

    name: person-detection
    version: 1.0.0
    component_id: 6f1e…            # stays the same from version to version
    input: {shape: [1, 96, 96, 3], dtype: float32, scale: 1.0, offset: 0.0}
    labels: [no person, person]    # one per output value
    description: Person in the picture?
    licence: Apache-2.0

What the author cannot say is measured: model bytes, arena, multiply-accumulates.
"""

import json
import math
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field

from protocol.document import Document, parse_document
from protocol.geometry import Core
from protocol.model import Guid, InputContract, Measured, ModelCard, Version
from service.cli.errors import CliError
from service.cli.offered import read_input
from tinyml.flatbuffer import ModelFacts

MAX_CARD_FILE_BYTES = 64 * 1024


class CardError(CliError):
    """The card is not of the expected form, or does not describe the model."""


class CardFile(Document):
    """What the author says of a model; fields as in `ModelCard`. The core may be left to the command line."""

    name: Annotated[str, Field(min_length=1, max_length=24, pattern=r"^[a-z0-9-]+$")]
    version: Version
    component_id: Guid
    core: Core | None = None
    input: InputContract
    labels: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...]
    description: Annotated[str, Field(max_length=1000)] = ""
    licence: Annotated[str, Field(max_length=200)] = ""

    def measured(self, core: Core, measured: Measured) -> ModelCard:
        """Complete the card by what packing measured."""
        return ModelCard(**dict(self) | {"core": core, "measured": measured})


def load_card(path: Path) -> CardFile:
    """Read card.yaml.

    Raises:
        CardError: no YAML mapping.
        DocumentError: a field is missing, unknown or wrong; names the first.
        PackageFileError: the file cannot be read.
    """
    content = read_input(path, max_bytes=MAX_CARD_FILE_BYTES)
    try:
        fields = yaml.safe_load(content)
        return parse_document(json.dumps(fields).encode(), CardFile)
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, RecursionError) as error:
        raise CardError(f"{path}: expected a card in YAML, found: {error}") from error


def check_core(card: CardFile, core: Core) -> None:
    """Refuse a card that is for another core.

    Raises:
        CardError: it names another.
    """
    if card.core not in (None, core):
        raise CardError(f"card, core: expected {core} as on the command line, found {card.core}")


def check_card(card: CardFile, facts: ModelFacts) -> None:
    """Refuse a card that does not describe the model.

    Raises:
        CardError: more than one input or output, another shape or type, or not one label per output value.
    """
    if len(facts.inputs) != 1 or len(facts.outputs) != 1:
        raise CardError(f"model: expected one input and one output, found {len(facts.inputs)} and {len(facts.outputs)}")
    wanted, found = facts.inputs[0], card.input
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise CardError(
            f"card, input: expected {wanted.dtype} of shape {wanted.shape} as the model has it, "
            f"found {found.dtype} of shape {found.shape}"
        )
    values = math.prod(facts.outputs[0].shape)
    if len(card.labels) != values:
        raise CardError(f"card, labels: expected {values}, one per output value, found {len(card.labels)}")
