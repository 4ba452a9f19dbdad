"""Real factors in fixed point, activation ranges and padding, as TFLM computes them."""

import math

import pytest
import tflite  # type: ignore[import-untyped] # the package has no annotations
from hypothesis import given
from hypothesis import strategies as st

from tinyml.errors import ModelFormatError
from tinyml.native.arithmetic import (
    Multiplier,
    activation_range,
    fixed_point,
    layer_factor,
    padding_before,
    quotient,
    round_half_away,
    softmax_scaling,
)


@given(st.floats(min_value=2**-30, max_value=2**30))
def test_fixed_point_stands_for_its_factor(factor: float) -> None:
    """31 bits hold a factor to within 2^-31 of itself."""
    fixed = fixed_point(factor)
    assert 1 << 30 <= fixed.multiplier < 1 << 31
    assert math.isclose(math.ldexp(fixed.multiplier, fixed.shift - 31), factor, rel_tol=2**-30)


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        (0.0, Multiplier(0, 0)),
        (1.0, Multiplier(1 << 30, 1)),
        (0.5, Multiplier(1 << 30, 0)),
        (1 - 2**-40, Multiplier(1 << 30, 1)),  # rounds up to the next power of two
        (2**-40, Multiplier(0, 0)),  # too small for a shift
    ],
)
def test_edges_of_fixed_point(factor: float, expected: Multiplier) -> None:
    """Zero, powers of two, what rounds up, what vanishes."""
    assert fixed_point(factor) == expected


@pytest.mark.parametrize("factor", [-1.0, math.nan, math.inf, 2.0**31])
def test_factor_that_fixed_point_cannot_hold_is_refused(factor: float) -> None:
    """Damaged scales lead here."""
    with pytest.raises(ModelFormatError, match="scale: expected a factor"):
        fixed_point(factor)


@pytest.mark.parametrize("divisor", [0.0, -1.0, math.nan, math.inf])
def test_scale_that_nothing_can_be_divided_by_is_refused(divisor: float) -> None:
    """The output's scale may be damaged, too."""
    with pytest.raises(ModelFormatError, match="scale: expected a positive number"):
        quotient(1.0, divisor)


def test_layer_with_one_scale_rounds_the_product_of_scales() -> None:
    """TFLM multiplies them as float32 there, and as double for a scale per channel."""
    first, second = 0.10000000149011612, 0.30000001192092896
    assert layer_factor(first, second, 1.0, per_channel=True) == first * second
    assert layer_factor(first, second, 1.0, per_channel=False) != first * second


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (tflite.ActivationFunctionType.NONE, (-128, 127)),
        (tflite.ActivationFunctionType.RELU, (-10, 127)),
        (tflite.ActivationFunctionType.RELU6, (-10, 50)),
        (tflite.ActivationFunctionType.RELU_N1_TO_1, (-20, 0)),
        (tflite.ActivationFunctionType.TANH, None),
    ],
)
def test_activation_becomes_a_range_of_stored_values(activation: int, expected: tuple[int, int] | None) -> None:
    """Scale 0.1 and zero point -10."""
    assert activation_range(activation, 0.1, -10) == expected


@pytest.mark.parametrize(("value", "expected"), [(0.5, 1), (-0.5, -1), (1.4, 1), (-2.5, -3), (0.0, 0)])
def test_halves_round_away_from_zero(value: float, expected: int) -> None:
    """As C's round does, unlike Python's."""
    assert round_half_away(value) == expected


@pytest.mark.parametrize(
    ("length", "output", "window", "stride", "expected"),
    [(96, 48, 3, 2, 0), (5, 5, 3, 1, 1), (7, 4, 3, 2, 1), (4, 2, 2, 2, 0)],
)
def test_same_padding_puts_the_odd_one_behind(
    length: int, output: int, window: int, stride: int, expected: int
) -> None:
    """What lies before the axis is the smaller half."""
    assert padding_before(length, output, window=window, stride=stride) == expected


def test_softmax_counts_what_its_exponent_can_hold() -> None:
    """A steep input shortens the range of differences that matter."""
    gentle, steep = softmax_scaling(1.0, 0.01), softmax_scaling(1.0, 0.9)
    assert gentle[1] < steep[1] < 0
    assert softmax_scaling(1.0, 1e9)[0] == Multiplier((1 << 31) - 1, 31)


def test_softmax_of_nothing_is_refused() -> None:
    """TFLM refuses a scale so small, too."""
    with pytest.raises(ModelFormatError, match=r"softmax: expected beta · scale above 2\^-26"):
        softmax_scaling(1.0, 2.0**-27)
