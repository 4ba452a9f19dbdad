"""The card that a model's author writes, card.yaml, and the model card that packing makes of it.

    name: person-detection
    version: 1.0.0
    component_id: 6f1e…            # stays the same from version to version
    input: {shape: [1, 96, 96, 3], dtype: float32, scale: 1.0, offset: 0.0, meaning: RGB picture, 0 to 255}
    output: {meaning: probability of each label}
    labels: [no person, person]    # one per output value
    description: Person in the picture?
    licence: Apache-2.0
    licence_notes: Name the authors.
    trained_on: Visual Wake Words (COCO 2014, training part)
    evaluated_on: its validation part
    evaluation: [{dataset: Visual Wake Words, metric: accuracy, value: 0.83, samples: 8059}]
    requires: {telemetry-app: ">=2.1"}

What the author cannot say is measured: model bytes, flash, arena, multiply-accumulates, shape and scale of the output,
scale of the input; or predicted: how long an inference takes.
"""

import json
import math
from pathlib import Path
from typing import Annotated, get_args

import yaml
from pydantic import Field, ValidationError

from protocol.document import Document, parse_document
from protocol.geometry import SECTOR_BYTES, Core
from protocol.image import package_bytes
from protocol.model import (
    Dtype,
    Evaluation,
    GoldenReference,
    Guid,
    InputContract,
    Meaning,
    Measured,
    ModelCard,
    Notes,
    OutputContract,
    PredictedLatency,
    Quantised,
    Version,
    compose_model_payload,
)
from protocol.versions import Requirements
from service.cli.errors import CliError
from service.cli.offered import read_input
from tinyml.flatbuffer import ModelFacts, TensorFacts
from tinyml.latency import Profile, predict
from tinyml.macs import MacCounts

MAX_CARD_FILE_BYTES = 64 * 1024


class CardError(CliError):
    """The card is not of the expected form, or does not describe the model."""


class AuthorOutput(Document):
    """What the author says of the output; shape, type and scale are the model's."""

    meaning: Meaning


class CardFile(Document):
    """What the author says of a model; fields as in `ModelCard`. The core may be left to the command line."""

    name: Annotated[str, Field(min_length=1, max_length=24, pattern=r"^[a-z0-9-]+$")]
    version: Version
    component_id: Guid
    core: Core | None = None
    input: InputContract
    output: AuthorOutput = AuthorOutput(meaning="")
    labels: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...]
    description: Annotated[str, Field(max_length=1000)] = ""
    licence: Annotated[str, Field(max_length=200)] = ""
    licence_notes: Notes = ""
    trained_on: Notes = ""
    evaluated_on: Notes = ""
    evaluation: Annotated[tuple[Evaluation, ...], Field(max_length=8)] = ()
    requires: Requirements = Field(default_factory=dict)


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
        CardError: more than one input or output, another shape, type or scale, or not one label per output value.
    """
    if len(facts.inputs) != 1 or len(facts.outputs) != 1:
        raise CardError(f"model: expected one input and one output, found {len(facts.inputs)} and {len(facts.outputs)}")
    wanted, found = facts.inputs[0], card.input
    if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
        raise CardError(
            f"card, input: expected {wanted.dtype} of shape {wanted.shape} as the model has it, "
            f"found {found.dtype} of shape {found.shape}"
        )
    quantised = _quantised("input", wanted)
    if found.quantised not in (None, quantised):
        raise CardError(f"card, input: expected {quantised} as the model has it, found {found.quantised}")
    values = math.prod(facts.outputs[0].shape)
    if len(card.labels) != values:
        raise CardError(f"card, labels: expected {values}, one per output value, found {len(card.labels)}")


def complete_card(
    author: CardFile, facts: ModelFacts, *, core: Core, content: bytes, arena_bytes: int, golden: GoldenReference | None
) -> ModelCard:
    """Complete a card that describes the model by what is measured and predicted.

    Args:
        author: the author's card, checked.
        facts: of the model.
        core: that is to run it.
        content: the .tflite file.
        arena_bytes: smallest arena that it loads in.
        golden: the vectors that it must answer, None where there are none yet.

    Raises:
        CardError: an output that no card can describe.
        ModelPackageError: the card is too large.
    """
    said = {name: getattr(author, name) for name in CardFile.model_fields if name not in {"input", "output", "core"}}
    card = ModelCard(
        **said,
        core=core,
        input=author.input.model_copy(update={"quantised": _quantised("input", facts.inputs[0])}),
        output=_output(facts.outputs[0], author.output.meaning),
        measured=Measured(model_bytes=len(content), arena_bytes=arena_bytes, macs=facts.macs.total),
        latency=_latency(facts.macs),
        golden=golden,
    )
    return with_flash(card, content)


def _quantised(what: str, tensor: TensorFacts) -> Quantised | None:
    if tensor.quantisation is None:
        return None
    try:
        return Quantised(scale=tensor.quantisation.scale, zero_point=tensor.quantisation.zero_point)
    except ValidationError as error:
        raise CardError(f"model, {what}: expected a scale above 0, found {tensor.quantisation}") from error


def _output(tensor: TensorFacts, meaning: str) -> OutputContract:
    for dtype in get_args(Dtype):
        if tensor.dtype == dtype:
            return OutputContract(
                shape=tensor.shape, dtype=dtype, quantised=_quantised("output", tensor), meaning=meaning
            )
    raise CardError(f"model, output: expected one of {', '.join(get_args(Dtype))}, found {tensor.dtype}")


def _latency(macs: MacCounts) -> tuple[PredictedLatency, ...]:
    estimates = [predict(macs, profile) for profile in Profile]
    return tuple(
        PredictedLatency(profile=each.profile, milliseconds=round(each.ms, 2), error_share=each.error_share)
        for each in estimates
    )


def with_flash(card: ModelCard, content: bytes) -> ModelCard:
    """Return a card that says how many sectors its package takes; the package holds the card, so until it is true."""
    while True:
        sectors = -(-package_bytes(len(compose_model_payload(card, content))) // SECTOR_BYTES)
        if sectors * SECTOR_BYTES == card.measured.flash_bytes:
            return card
        measured = card.measured.model_copy(update={"flash_bytes": sectors * SECTOR_BYTES})
        card = card.model_copy(update={"measured": measured})
