"""The integers that TFLM's reference kernels compute with, from the real numbers that a model stores.

A real factor m becomes a multiplier of 31 bits and a shift: m ≈ multiplier · 2^(shift - 31). All of it is done here,
before compilation, so that the firmware does no floating-point arithmetic except at a model's float ends.

Sources: quantization_util.cc (QuantizeMultiplier, PreprocessSoftmaxScaling, CalculateInputRadius), kernel_util.cc
(CalculateActivationRangeQuantized, GetQuantizedConvolutionMultipler), add_common.cc and padding.h of
tensorflow/tflite-micro.
"""

import math
from dataclasses import dataclass

import numpy as np
import tflite  # type: ignore[import-untyped] # the package has no annotations

from tinyml.errors import ModelFormatError

INT8_LOW, INT8_HIGH = -128, 127
ADD_LEFT_SHIFT = 20  # head-room that an addition scales its inputs into
_ONE = 1 << 31
_SMALLEST_SHIFT, _LARGEST_SHIFT = -31, 31
_SOFTMAX_INTEGER_BITS = 5  # the exponent is Q5.26
_LARGEST_SOFTMAX_FACTOR = float(_ONE - 1)


@dataclass(frozen=True, slots=True)
class Multiplier:
    """A real factor in fixed point: multiplier · 2^(shift - 31)."""

    multiplier: int
    shift: int


def fixed_point(factor: float) -> Multiplier:
    """Turn a real factor into fixed point.

    Raises:
        ModelFormatError: negative, not finite, or 2^31 and more.
    """
    if not (math.isfinite(factor) and factor >= 0):
        raise ModelFormatError(f"scale: expected a factor of 0 or more, found {factor}")
    fraction, shift = math.frexp(factor)
    multiplier = round_half_away(fraction * _ONE)
    if multiplier == _ONE:
        multiplier, shift = multiplier // 2, shift + 1
    if shift < _SMALLEST_SHIFT:
        return Multiplier(0, 0)
    if shift > _LARGEST_SHIFT:
        raise ModelFormatError(f"scale: expected a factor below 2^{_LARGEST_SHIFT}, found {factor:g}")
    return Multiplier(multiplier, shift)


def round_half_away(value: float) -> int:
    """Round to the nearest integer, halves away from zero, as C's round does."""
    return math.floor(abs(value) + 0.5) * (-1 if value < 0 else 1)


def layer_factor(input_scale: float, weight_scale: float, output_scale: float, *, per_channel: bool) -> float:
    """Return what a sum of products is multiplied by to become an output.

    A layer with one scale for all weights rounds the product of both scales to float32; one with a scale for each
    channel does not.
    """
    product = input_scale * weight_scale if per_channel else float(np.float32(input_scale) * np.float32(weight_scale))
    return quotient(product, output_scale)


def quotient(dividend: float, divisor: float) -> float:
    """Divide two scales.

    Raises:
        ModelFormatError: the divisor is no positive number.
    """
    if not (math.isfinite(divisor) and divisor > 0):
        raise ModelFormatError(f"scale: expected a positive number, found {divisor}")
    return dividend / divisor


def activation_range(activation: int, scale: float, zero_point: int) -> tuple[int, int] | None:
    """Return the smallest and largest stored value that a fused activation lets through; None for an unknown one."""
    bounds = {
        tflite.ActivationFunctionType.NONE: (-math.inf, math.inf),
        tflite.ActivationFunctionType.RELU: (0.0, math.inf),
        tflite.ActivationFunctionType.RELU_N1_TO_1: (-1.0, 1.0),
        tflite.ActivationFunctionType.RELU6: (0.0, 6.0),
    }.get(activation)
    if bounds is None:
        return None
    low, high = (_stored(bound, scale, zero_point) for bound in bounds)
    return low, max(low, high)


def softmax_scaling(beta: float, input_scale: float) -> tuple[Multiplier, int]:
    """Return the factor of a softmax's exponents, and the difference from the largest input that still counts.

    Raises:
        ModelFormatError: the product of both lies below 2^-26, where TFLM refuses it, too.
    """
    fraction_bits = 31 - _SOFTMAX_INTEGER_BITS
    factor = min(beta * input_scale * (1 << fraction_bits), _LARGEST_SOFTMAX_FACTOR)
    if not factor > 1:
        raise ModelFormatError(f"softmax: expected beta · scale above 2^-{fraction_bits}, found {beta * input_scale:g}")
    fixed = fixed_point(factor)
    radius = ((1 << _SOFTMAX_INTEGER_BITS) - 1) * (1 << fraction_bits) >> fixed.shift
    return fixed, -radius


def padding_before(length: int, output: int, *, window: int, stride: int) -> int:
    """Return how many positions of SAME padding lie before an axis; the rest of it lies behind."""
    return max((output - 1) * stride + window - length, 0) // 2


def _stored(bound: float, scale: float, zero_point: int) -> int:
    if math.isinf(bound):
        return INT8_LOW if bound < 0 else INT8_HIGH
    stored = round_half_away(float(np.float32(quotient(bound, scale)))) + zero_point
    return min(max(stored, INT8_LOW), INT8_HIGH)
