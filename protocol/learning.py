"""Learning templates: what an M4 needs to learn, by itself, what is normal for the machine that it sits on.

A template is a model package (`protocol.model`) whose card says `kind: anomaly-template` and whose model is the
canonical JSON of a `LearningTemplate`. Its card's input is one window of samples, float32; its labels are `LABELS`.

From a window the core computes `bands + 2` features, float32: natural logarithms of the power in logarithmic bands, of
the RMS value and of the kurtosis. It compares them with up to `max_prototypes` prototypes of running mean and variance.
What it learned is laid out by `protocol.learned_state`.
"""

import hashlib
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document, canonical_json, parse_document
from protocol.errors import MalformedError
from protocol.feature_layout import FLOAT_BYTES, MAX_MEAN, FeatureLayout
from protocol.learned_state import MAX_PROTOTYPES, state_bytes
from protocol.model import ModelCard, ModelKind, ModelPackage
from protocol.sensing import SignalContract

MAX_TEMPLATE_BYTES = 32 * 1024
RAM_BUDGET_BYTES = 4 * 1024  # of a core, for the state and every buffer of the detector
LABELS = ("normal", "anomaly", "learning")
MAX_COUNT = (1 << 32) - 1

Sensitivity = Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)]


class TemplateError(MalformedError):
    """A learning template does not fit the memory of a core, or its card describes something else."""


class StatePolicy(StrEnum):
    """What becomes of the learned state when a template takes the place of another one."""

    KEEP = "keep"  # if component and feature layout are the same; else it is reset
    RESET = "reset"


class Prototype(Document):
    """What a group of normal windows has in common.

    Attributes:
        windows: how many it stands for.
        mean: of each feature.
        variance: of each feature.
    """

    windows: Annotated[int, Field(ge=1, le=MAX_COUNT)]
    mean: tuple[Annotated[float, Field(ge=-MAX_MEAN, le=MAX_MEAN)], ...]
    variance: tuple[Annotated[float, Field(ge=0, le=MAX_MEAN**2)], ...]


class LearningTemplate(Document):
    """How a device learns its own normal.

    Attributes:
        layout: what is computed from a window.
        max_prototypes: kinds of normal that one device may have, such as speeds.
        sensitivity: 1 is as designed; 2 counts every deviation twice, 0.5 half.
        warm_up_windows: that a device learns from before it judges.
        policy: what becomes of the state that is there.
        prior: what is known of every machine of the kind, and where learning begins; golden vectors are judged by it.
    """

    layout: FeatureLayout
    max_prototypes: Annotated[int, Field(ge=1, le=MAX_PROTOTYPES)] = MAX_PROTOTYPES
    sensitivity: Sensitivity = 1.0
    warm_up_windows: Annotated[int, Field(ge=1, le=1_000_000)]
    policy: StatePolicy = StatePolicy.KEEP
    prior: Annotated[tuple[Prototype, ...], Field(max_length=MAX_PROTOTYPES)] = ()

    @model_validator(mode="after")
    def _check_prior(self) -> Self:
        if len(self.prior) > self.max_prototypes:
            raise ValueError(f"prior: expected at most {self.max_prototypes} prototypes, found {len(self.prior)}")
        wanted = self.layout.features
        for prototype in self.prior:
            if (len(prototype.mean), len(prototype.variance)) != (wanted, wanted):
                raise ValueError(
                    f"prior: expected {wanted} means and variances, "
                    f"found {len(prototype.mean)} and {len(prototype.variance)}"
                )
        return self

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON, lower-case hex."""
        return hashlib.sha256(canonical_json(self)).hexdigest()


def encode_template(template: LearningTemplate) -> bytes:
    """Return the bytes that stand in the place of a model."""
    return canonical_json(template)


def template_of(package: ModelPackage) -> LearningTemplate:
    """Return the template of a package, checked against its card.

    Raises:
        TemplateError: the card is of another kind or describes something else, or the memory of a core is too small.
        DocumentError: the template is not of the expected form; names the first wrong field.
    """
    card = package.card
    if card.kind is not ModelKind.ANOMALY_TEMPLATE:
        raise TemplateError(f"model card: expected kind {ModelKind.ANOMALY_TEMPLATE}, found {card.kind}")
    template = parse_document(package.model, LearningTemplate, max_bytes=MAX_TEMPLATE_BYTES)
    check_budget(template)
    _check_card(card, template)
    return template


def _check_card(card: ModelCard, template: LearningTemplate) -> None:
    layout = template.layout
    wanted = ((layout.window_samples,), "float32", LABELS)
    found = (card.input.shape, card.input.dtype, card.labels)
    if found != wanted:
        raise TemplateError(f"model card: expected shape, type and labels {wanted}, found {found}")
    if card.input.signal != SignalContract(sample_rate_hz=layout.rate_hz, window_samples=layout.window_samples):
        raise TemplateError("model card: expected the rate and window of the template as its signal, found another")
    ram = ram_bytes(layout, max_prototypes=template.max_prototypes)
    if card.measured.arena_bytes != ram:
        raise TemplateError(f"model card: expected {ram} bytes of RAM, found {card.measured.arena_bytes}")


def ram_bytes(layout: FeatureLayout, *, max_prototypes: int) -> int:
    """Return what the detector takes of a core's RAM: the state as `protocol.learned_state` lays it out, and buffers.

    Buffers are the window and its spectrum, as many numbers each as the window has samples, the features, and the
    distance to each prototype. Tables (the Hann window, FFT twiddles, band edges) stay in flash.
    """
    buffers = 2 * layout.window_samples + layout.features + max_prototypes
    return state_bytes(features=layout.features, prototypes=max_prototypes) + FLOAT_BYTES * buffers


def check_budget(template: LearningTemplate) -> None:
    """Refuse a template that takes more RAM than there is for it.

    Raises:
        TemplateError: says how much it takes.
    """
    found = ram_bytes(template.layout, max_prototypes=template.max_prototypes)
    if found > RAM_BUDGET_BYTES:
        raise TemplateError(f"learning template: expected at most {RAM_BUDGET_BYTES} bytes of RAM, found {found}")
