"""Learning templates: what they may ask for, what of a core's RAM they take, and what their cards must say."""

from itertools import pairwise
from typing import Any

import pytest
from pydantic import ValidationError

from protocol.document import DocumentError
from protocol.feature_layout import FeatureLayout
from protocol.learned_state import MAX_PROTOTYPES, MAX_STATE_BYTES
from protocol.learning import (
    RAM_BUDGET_BYTES,
    LearningTemplate,
    Prototype,
    TemplateError,
    encode_template,
    ram_bytes,
    template_of,
)
from protocol.model import ModelKind, ModelPackage
from tests.learning_template import LAYOUT, learning_template, template_card

PLAIN = Prototype(windows=3, mean=(0.0,) * 18, variance=(1.0,) * 18)


def package(template: LearningTemplate, **card: Any) -> ModelPackage:
    return ModelPackage(template_card(template).model_copy(update=card), encode_template(template))


def test_template_comes_back_from_its_package() -> None:
    """With its prior knowledge; equal templates have equal digests."""
    template = learning_template(prior=(PLAIN,))
    assert template_of(package(template)) == template
    assert template.sha256 == learning_template(prior=(PLAIN,)).sha256 != learning_template().sha256


def test_largest_detector_fits_the_budget() -> None:
    """Every window of 256 samples does, whatever else a template asks for; one of 512 does not."""
    assert ram_bytes(LAYOUT, max_prototypes=MAX_PROTOTYPES) == MAX_STATE_BYTES + 2 * 1024 + 4 * (18 + 8) == 3464
    assert RAM_BUDGET_BYTES == 4096
    large = learning_template(layout=LAYOUT.model_copy(update={"window_samples": 512}))
    with pytest.raises(TemplateError, match="expected at most 4096 bytes of RAM, found 5512"):
        template_of(package(large))


@pytest.mark.parametrize(
    ("card", "text"),
    [
        ({"kind": ModelKind.TFLITE}, "expected kind anomaly-template, found tflite"),
        ({"labels": ("normal", "anomaly")}, "expected shape, type and labels"),
        (
            {"input": template_card(learning_template()).input.model_copy(update={"signal": None})},
            "expected the rate and window of the template as its signal",
        ),
        (
            {"measured": template_card(learning_template()).measured.model_copy(update={"arena_bytes": 2048})},
            "expected 3464 bytes of RAM, found 2048",
        ),
    ],
)
def test_card_that_describes_something_else_is_refused(card: dict[str, object], text: str) -> None:
    """A device would otherwise plan for another model than it runs."""
    with pytest.raises(TemplateError, match=text):
        template_of(package(learning_template(), **card))


def test_malformed_template_says_where() -> None:
    """A misspelt key, a rate of nothing."""
    card = template_card(learning_template())
    with pytest.raises(DocumentError, match="warmup: Extra inputs"):
        template_of(ModelPackage(card, encode_template(learning_template())[:-1] + b',"warmup":1}'))
    with pytest.raises(DocumentError, match="Invalid JSON"):
        template_of(ModelPackage(card, b""))


@pytest.mark.parametrize(
    ("low_hz", "high_hz", "bands"),
    [(1.0, 1600.0, 16), (100.0, 50.0, 1), (12.5, 1700.0, 16), (100.0, 150.0, 16)],
)
def test_bands_lie_between_the_frequencies_that_there_are(low_hz: float, high_hz: float, bands: int) -> None:
    """Not below the first line, not above half the rate, the low end first, one line for each band at least."""
    with pytest.raises(ValidationError, match=r"frequencies from 12\.5 Hz to 1600 Hz"):
        FeatureLayout(window_samples=256, rate_hz=3200, bands=bands, low_hz=low_hz, high_hz=high_hz)


@pytest.mark.parametrize(("low_hz", "high_hz", "bands"), [(12.5, 1600.0, 16), (100.0, 287.5, 16), (800.0, 1600.0, 1)])
def test_every_band_has_a_line(low_hz: float, high_hz: float, bands: int) -> None:
    """Edges rise, from the line of the lowest frequency to the one behind the highest."""
    edges = FeatureLayout(window_samples=256, rate_hz=3200, bands=bands, low_hz=low_hz, high_hz=high_hz).edges()
    assert (edges[0], edges[-1], len(edges)) == (round(low_hz / 12.5), round(high_hz / 12.5) + 1, bands + 1)
    assert all(first < second for first, second in pairwise(edges))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prior": (PLAIN, PLAIN), "max_prototypes": 1}, "expected at most 1 prototypes, found 2"),
        ({"prior": (PLAIN.model_copy(update={"mean": (0.0,) * 17}),)}, "found 17 and 18"),
        ({"max_prototypes": 9}, "less than or equal to 8"),
        ({"sensitivity": float("nan")}, "finite number"),
        ({"policy": "forget"}, "'keep' or 'reset'"),
    ],
)
def test_template_that_no_core_can_run_is_refused(changes: dict[str, object], text: str) -> None:
    """More prior knowledge than room for it, of other features, numbers that are none."""
    with pytest.raises(ValidationError, match=text):
        LearningTemplate.model_validate(learning_template().model_dump() | changes)
