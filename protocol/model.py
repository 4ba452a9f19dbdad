"""Model packages and golden vectors.

The payload of a model package, little-endian:

    0   4  magic "TFM1"
    4   4  u32 card length n, bytes of JSON
    8   8  reserved, zero
    16  n  model card, canonical JSON
    …      zeros to the next multiple of 16
    …      what the card's kind says, such as the .tflite FlatBuffer, to the end (the package's own padding of up to 3
           zero bytes may follow)

Golden vectors are a document of their own: they belong to the component, not to one model of it, and another role
than the model's author signs them. They stream from the A7 during a trial, so no flash of a core holds them.
"""

import base64
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import FailFast, Field, field_validator, model_validator

from protocol.document import Document, canonical_json, parse_document
from protocol.errors import MalformedError
from protocol.geometry import Core
from protocol.sensing import SensorKind, SignalContract
from protocol.versions import Requirements

MAGIC = b"TFM1"
ALIGNMENT_BYTES = 16  # int8 kernels load weights in words; XIP flash rows are 16 bytes
MAX_CARD_BYTES = 8 * 1024
GOLDEN_PAYLOAD_TYPE = "application/vnd.tinyfleet.golden-vectors+json"
_HEADER = struct.Struct("<4sI8x")

Guid = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
Version = Annotated[str, Field(pattern=r"^\d{1,5}\.\d{1,5}\.\d{1,5}$")]
Number = Annotated[float, Field(allow_inf_nan=False)]  # JSON has no others
Sha256Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ModelPackageError(MalformedError):
    """The payload is no model package."""


Shape = tuple[Annotated[int, Field(ge=0, le=1 << 31)], ...]
Dtype = Literal["int8", "uint8", "float32"]
Meaning = Annotated[str, Field(max_length=200)]
Notes = Annotated[str, Field(max_length=400)]


class Quantised(Document):
    """How a stored integer stands for a real number: real = scale · (stored − zero point)."""

    scale: Annotated[Number, Field(gt=0)]
    zero_point: Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]


class InputContract(Document):
    """How a photo or signal becomes the input tensor: value = sample · scale + offset, then cast to dtype.

    Attributes:
        sensor: what the model listens to; cards from before it was said are of models that look at photos.
        signal: the window of a microphone or an accelerometer that the model takes; None for a camera.
        quantised: what a stored integer stands for inside the model; None for a float tensor.
        meaning: what a sample is.
    """

    shape: tuple[int, ...]
    dtype: Dtype
    scale: Number = 1.0
    offset: Number = 0.0
    quantised: Quantised | None = None
    meaning: Meaning = ""
    sensor: SensorKind = SensorKind.CAMERA
    signal: SignalContract | None = None

    @model_validator(mode="after")
    def _check_signal(self) -> Self:
        if (self.signal is None) != (self.sensor is SensorKind.CAMERA):
            found = "none" if self.signal is None else "one"
            raise ValueError(f"signal: expected one unless a camera is the sensor, found {found} of a {self.sensor}")
        return self


class OutputContract(Document):
    """The tensor that the model answers with: one value per label, once dequantised.

    Attributes:
        quantised: what a stored integer stands for; None for a float tensor.
        meaning: what a value is, such as a probability.
    """

    shape: Shape
    dtype: Dtype
    quantised: Quantised | None = None
    meaning: Meaning = ""


class Measured(Document):
    """What packing measured; nobody has to believe the author.

    Attributes:
        model_bytes: length of the .tflite file.
        arena_bytes: smallest arena of the TFLM interpreter.
        macs: multiply-accumulates of one inference.
        flash_bytes: whole sectors that the package takes; 0 on cards from before this was measured.
    """

    model_bytes: int
    arena_bytes: int
    macs: int
    flash_bytes: Annotated[int, Field(ge=0)] = 0


class PredictedLatency(Document):
    """How long one inference is modelled to take on the core, with a software stack (`tinyml.latency`).

    Attributes:
        profile: the stack.
        milliseconds: the model's figure.
        error_share: how far the truth may be off, as a share of the figure: 0.35 is ±35 %; from 1 on, a factor of
            1 + share either way.
    """

    profile: Annotated[str, Field(min_length=1, max_length=32)]
    milliseconds: Annotated[Number, Field(ge=0)]
    error_share: Annotated[Number, Field(ge=0)]


class GoldenReference(Document):
    """The golden vectors that the model answered when it was packed.

    Attributes:
        component_id: whose they are.
        sha256: of the signed envelope, hex.
        vectors: how many.
    """

    component_id: Guid
    sha256: Sha256Hex
    vectors: Annotated[int, Field(ge=1)]


class Evaluation(Document):
    """How good the model was found to be, by its author's word.

    Attributes:
        dataset: what it was evaluated on.
        metric: such as accuracy.
        value: of the metric.
        samples: of the data set.
    """

    dataset: Annotated[str, Field(min_length=1, max_length=100)]
    metric: Annotated[str, Field(min_length=1, max_length=50)]
    value: Number
    samples: Annotated[int, Field(ge=1)]


class ModelKind(StrEnum):
    """What the model of a package is."""

    TFLITE = "tflite"  # a FlatBuffer that TFLM interprets
    ANOMALY_TEMPLATE = "anomaly-template"  # what a core learns by, see `protocol.learning`


class ModelCard(Document):
    """The facts that decide where a model may run, and what its answers mean.

    What packing measures or predicts: `output`, quantisation of the input, `measured`, `latency`, `golden`. The rest is
    the author's word. Fields with a default may be missing on cards of earlier packages.

    Attributes:
        kind: what the model is.
        labels: one per output value.
        licence: an SPDX id or expression, or a name.
        licence_notes: who has to be named, what may not be done.
        trained_on: which data, and where it came from.
        evaluated_on: which data, and how it differs from that of training.
        requires: of the images that run beside the model: name → versions.
    """

    name: Annotated[str, Field(min_length=1, max_length=24, pattern=r"^[a-z0-9-]+$")]
    version: Version
    component_id: Guid
    core: Core
    kind: ModelKind = ModelKind.TFLITE
    input: InputContract
    output: OutputContract | None = None
    labels: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...]
    measured: Measured
    latency: Annotated[tuple[PredictedLatency, ...], Field(max_length=8)] = ()
    golden: GoldenReference | None = None
    evaluation: Annotated[tuple[Evaluation, ...], Field(max_length=8)] = ()
    requires: Requirements = Field(default_factory=dict)
    description: Annotated[str, Field(max_length=1000)] = ""
    licence: Annotated[str, Field(max_length=200)] = ""
    licence_notes: Notes = ""
    trained_on: Notes = ""
    evaluated_on: Notes = ""

    @property
    def facts(self) -> "ModelFacts":
        """What devices are chosen by."""
        measured = self.measured
        return ModelFacts(
            core=self.core,
            kind=self.kind,
            sensor=self.input.sensor,
            labels=self.labels,
            licence=self.licence,
            model_bytes=measured.model_bytes,
            arena_bytes=measured.arena_bytes,
            flash_bytes=measured.flash_bytes,
            macs=measured.macs,
        )


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Of a model's card, what tells the devices that run it from others; fields as in `ModelCard` and `Measured`."""

    core: Core
    kind: ModelKind
    sensor: SensorKind
    labels: tuple[str, ...]
    licence: str
    model_bytes: int
    arena_bytes: int
    flash_bytes: int
    macs: int


class GoldenVector(Document):
    """One input and what the component must answer.

    Attributes:
        input: the input tensor's bytes in the card's dtype and C order, base64.
        expected: dequantised output values, one per label.
        tolerance: largest absolute difference of any output value.
    """

    name: str
    input: str
    expected: Annotated[tuple[Number, ...], FailFast()]
    tolerance: Annotated[Number, Field(gt=0)]

    @field_validator("input")
    @classmethod
    def _is_base64(cls, value: str) -> str:
        base64.b64decode(value, validate=True)
        return value

    @property
    def input_bytes(self) -> bytes:
        """The input tensor's bytes."""
        return base64.b64decode(self.input)


class GoldenVectors(Document):
    """What every model of a component must answer before it may run; at least one vector."""

    component_id: Guid
    vectors: Annotated[tuple[GoldenVector, ...], Field(min_length=1), FailFast()]


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model and its card, taken out of a verified image package."""

    card: ModelCard
    model: bytes  # what the card's kind says: a .tflite FlatBuffer, or a learning template


def compose_model_payload(card: ModelCard, model: bytes) -> bytes:
    """Lay a card and a model out as the payload of an image package.

    Raises:
        ModelPackageError: the card is too large.
    """
    card_bytes = canonical_json(card)
    if len(card_bytes) > MAX_CARD_BYTES:
        raise ModelPackageError(f"model card: expected at most {MAX_CARD_BYTES} bytes, found {len(card_bytes)}")
    head = _HEADER.pack(MAGIC, len(card_bytes)) + card_bytes
    return head + bytes(-len(head) % ALIGNMENT_BYTES) + model


def parse_model_payload(payload: bytes) -> ModelPackage:
    """Take a verified payload apart.

    Raises:
        ModelPackageError: not a model payload, truncated, or its length differs from the card.
        DocumentError: the card is not of the expected form.
    """
    if len(payload) < _HEADER.size:
        raise ModelPackageError(f"model payload: expected at least {_HEADER.size} bytes, found {len(payload)}")
    magic, card_bytes = _HEADER.unpack_from(payload)
    if magic != MAGIC or card_bytes > MAX_CARD_BYTES:
        raise ModelPackageError(
            f"model payload: expected {MAGIC!r} and a card of at most {MAX_CARD_BYTES} bytes, "
            f"found {magic!r} and {card_bytes}"
        )
    end = _HEADER.size + card_bytes
    card = parse_document(payload[_HEADER.size : end], ModelCard, max_bytes=MAX_CARD_BYTES)
    start = end + -end % ALIGNMENT_BYTES
    model = payload[start : start + card.measured.model_bytes]
    if len(model) != card.measured.model_bytes:
        raise ModelPackageError(f"model: expected {card.measured.model_bytes} bytes, found {len(model)}")
    rest = payload[start + len(model) :]
    if any(rest):  # zeros are padding
        raise ModelPackageError(f"model: expected nothing but zeros after it, found {len(rest)} further bytes")
    return ModelPackage(card, model)
