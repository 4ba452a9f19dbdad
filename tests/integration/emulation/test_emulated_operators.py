"""Each kernel of the native program gives what TFLM's gives, bit for bit, on random weights and inputs."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from tests.integration.emulation.emulated_programs import needs_emulation
from tests.integration.emulation.operator_models import Case, Value, build, window_options
from tinyml.workers import InferencePool, ModelImage

if TYPE_CHECKING:
    from device_sim.emulation.inference import EmulatedInference

pytestmark = needs_emulation

_SEED = 20261123
_INPUTS_PER_CASE = 4
_ARENA_BYTES = 64 * 1024
_SAME, _VALID = schema.Padding.SAME, schema.Padding.VALID
_ACTIVATION = schema.ActivationFunctionType
_OPERATOR = schema.BuiltinOperator


def _weights(shape: tuple[int, ...], *, axis: int = 0, per_channel: bool = True) -> Value:
    chance = np.random.default_rng([_SEED, *shape])
    count = shape[axis] if per_channel else 1
    scales = tuple(chance.uniform(0.001, 0.02, count).astype(np.float32).tolist())
    return Value(shape, scales=scales, axis=axis, data=chance.integers(-127, 128, shape))


def _bias(channels: int) -> Value:
    chance = np.random.default_rng([_SEED, channels])
    return Value((channels,), "int32", data=chance.integers(-5000, 5000, channels))


def _int8(*shape: int, scale: float = 0.05, zero: int = -3) -> Value:
    return Value(shape, scales=(scale,), zero_points=(zero,))


def _conv(name: str, source: Value, weights: Value, target: Value, *bias: Value, **options: Any) -> Case:
    settings = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1} | options
    chosen = window_options(schema.Conv2DOptionsT, **settings)
    values = (source, weights, *bias, target)
    return Case(name, _OPERATOR.CONV_2D, values, chosen, schema.BuiltinOptions.Conv2DOptions)


def _depthwise(name: str, source: Value, weights: Value, target: Value, **options: Any) -> Case:
    settings = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1} | options
    chosen = window_options(schema.DepthwiseConv2DOptionsT, **settings)
    values = (source, weights, _bias(target.shape[3]), target)
    return Case(name, _OPERATOR.DEPTHWISE_CONV_2D, values, chosen, schema.BuiltinOptions.DepthwiseConv2DOptions)


def _pool(name: str, code: int, source: Value, target: Value, **options: Any) -> Case:
    chosen = window_options(schema.Pool2DOptionsT, **options)
    return Case(name, code, (source, target), chosen, schema.BuiltinOptions.Pool2DOptions)


def _dense(name: str, source: Value, weights: Value, target: Value, *bias: Value, activation: int = 0) -> Case:
    options = window_options(schema.FullyConnectedOptionsT, fusedActivationFunction=activation)
    values = (source, weights, *bias, target)
    return Case(name, _OPERATOR.FULLY_CONNECTED, values, options, schema.BuiltinOptions.FullyConnectedOptions)


def _add(name: str, first: Value, second: Value, target: Value, *, activation: int = 0) -> Case:
    options = window_options(schema.AddOptionsT, fusedActivationFunction=activation)
    return Case(name, _OPERATOR.ADD, (first, second, target), options, schema.BuiltinOptions.AddOptions)


def _softmax(name: str, source: Value, *, beta: float) -> Case:
    options = schema.SoftmaxOptionsT()
    options.beta = beta
    target = _int8(*source.shape, scale=1 / 256, zero=-128)
    return Case(name, _OPERATOR.SOFTMAX, (source, target), options, schema.BuiltinOptions.SoftmaxOptions)


def _constant(value: Value) -> Value:
    data = np.random.default_rng(_SEED).integers(-128, 128, value.shape)
    return Value(value.shape, value.dtype, value.scales, value.zero_points, data=data)


_CASES = [
    _conv(
        "convolution, SAME, stride 2, RELU6",
        _int8(1, 9, 7, 3),
        _weights((5, 3, 3, 3)),
        _int8(1, 5, 4, 5),
        _bias(5),
        padding=_SAME,
        strideH=2,
        strideW=2,
        fusedActivationFunction=_ACTIVATION.RELU6,
    ),
    _conv(
        "convolution, VALID, strides 1 and 2, RELU",
        _int8(1, 8, 9, 4, zero=12),
        _weights((6, 2, 3, 4)),
        _int8(1, 7, 4, 6, scale=0.11),
        _bias(6),
        padding=_VALID,
        strideW=2,
        fusedActivationFunction=_ACTIVATION.RELU,
    ),
    _conv(
        "convolution, 1x1, one scale, no bias",
        _int8(1, 4, 4, 8),
        _weights((3, 1, 1, 8), per_channel=False),
        _int8(1, 4, 4, 3),
        padding=_SAME,
        fusedActivationFunction=_ACTIVATION.RELU_N1_TO_1,
    ),
    _conv(
        "convolution that scales up",
        _int8(1, 3, 3, 2, scale=3.0),
        _weights((2, 3, 3, 2)),
        _int8(1, 3, 3, 2, scale=0.002),
        padding=_SAME,
    ),
    _depthwise(
        "depthwise, SAME, multiplier 2, RELU6",
        _int8(1, 7, 6, 4),
        _weights((1, 3, 3, 8), axis=3),
        _int8(1, 7, 6, 8),
        padding=_SAME,
        depthMultiplier=2,
        fusedActivationFunction=_ACTIVATION.RELU6,
    ),
    _depthwise(
        "depthwise, VALID, stride 2",
        _int8(1, 9, 9, 5, zero=0),
        _weights((1, 3, 3, 5), axis=3),
        _int8(1, 4, 4, 5),
        padding=_VALID,
        strideH=2,
        strideW=2,
        depthMultiplier=1,
    ),
    _pool(
        "average pool, SAME, odd windows",
        _OPERATOR.AVERAGE_POOL_2D,
        _int8(1, 7, 5, 3),
        _int8(1, 4, 3, 3),
        padding=_SAME,
        strideH=2,
        strideW=2,
        filterHeight=3,
        filterWidth=3,
    ),
    _pool(
        "average pool, VALID, RELU",
        _OPERATOR.AVERAGE_POOL_2D,
        _int8(1, 6, 6, 2),
        _int8(1, 5, 5, 2),
        padding=_VALID,
        strideH=1,
        strideW=1,
        filterHeight=2,
        filterWidth=2,
        fusedActivationFunction=_ACTIVATION.RELU,
    ),
    _pool(
        "max pool, SAME, stride 2, RELU6",
        _OPERATOR.MAX_POOL_2D,
        _int8(1, 7, 7, 3),
        _int8(1, 4, 4, 3),
        padding=_SAME,
        strideH=2,
        strideW=2,
        filterHeight=2,
        filterWidth=3,
        fusedActivationFunction=_ACTIVATION.RELU6,
    ),
    _dense(
        "fully connected, one scale, 3 rows",
        _int8(3, 20),
        _weights((7, 20), per_channel=False),
        _int8(3, 7, scale=0.3),
        _bias(7),
    ),
    _dense(
        "fully connected, scale for each channel, RELU",
        _int8(1, 33),
        _weights((9, 33)),
        _int8(1, 9, scale=0.2, zero=-128),
        _bias(9),
        activation=_ACTIVATION.RELU,
    ),
    _dense("fully connected, no bias", _int8(1, 16), _weights((4, 16), per_channel=False), _int8(1, 4, scale=0.1)),
    _add(
        "addition of unlike scales",
        _int8(1, 5, 5, 4, scale=0.031, zero=7),
        _constant(_int8(1, 5, 5, 4, scale=0.19, zero=-40)),
        _int8(1, 5, 5, 4, scale=0.17, zero=-11),
    ),
    _add("addition, RELU", _int8(1, 64), _constant(_int8(1, 64)), _int8(1, 64, zero=-128), activation=_ACTIVATION.RELU),
    _softmax("softmax of 4 rows", _int8(4, 11, scale=0.15), beta=1.0),
    _softmax("softmax, steep", _int8(1, 10, scale=0.9), beta=2.0),
    _softmax("softmax, flat", _int8(1, 100, scale=0.01), beta=0.3),
    Case("quantise", _OPERATOR.QUANTIZE, (Value((1, 40), "float32"), _int8(1, 40))),
    Case("dequantise", _OPERATOR.DEQUANTIZE, (_int8(1, 40, scale=0.037), Value((1, 40), "float32"))),
    Case("reshape", _OPERATOR.RESHAPE, (_int8(1, 4, 6), Value((2,), "int32", data=np.array([3, 8])), _int8(3, 8))),
]


def _inputs(value: Value) -> Iterator[np.ndarray]:
    chance = np.random.default_rng(_SEED)
    for _ in range(_INPUTS_PER_CASE):
        if value.dtype == "float32":
            yield (np.round(chance.uniform(-8, 8, value.shape) / 0.025) * 0.025).astype(np.float32)  # many halves
        else:
            yield chance.integers(-128, 128, value.shape, dtype=np.int8)


@pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
def test_operator_gives_what_tflm_gives(case: Case, emulated: "EmulatedInference", pool: InferencePool) -> None:
    """One operator, random weights, four random inputs: every stored value is the same."""
    model = ModelImage(build(case), _ARENA_BYTES)
    for tensor in _inputs(case.values[0]):
        expected = pool.invoke(model, tensor, deadline_seconds=30).output
        found = emulated.invoke(model, tensor, deadline_seconds=30).output
        assert len(np.unique(expected)) > 1
        np.testing.assert_array_equal(found, expected)
