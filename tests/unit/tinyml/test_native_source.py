"""C from a model, and the errors before there is any: no compiler is needed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from tests.integration.emulation.operator_models import Case, Value, build, build_graph, window_options
from tests.unit.device_hardware.device_builder import colour_model
from tinyml.errors import ModelFormatError
from tinyml.native.errors import CompilerMissingError, OverBudgetError, ProgramFormatError, UnsupportedOperatorError
from tinyml.native.lowering import KERNEL_OPERATORS
from tinyml.native.program import parse_program
from tinyml.native.source import generate_source
from tinyml.native.toolchain import compile_program, require_toolchain
from tinyml.operators import TFLM_OPERATORS

_OPERATOR = schema.BuiltinOperator
_CONVOLUTION = {"padding": 0, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}


def _int8(*shape: int, scale: float = 0.1, zero: int = 0, data: np.ndarray | None = None) -> Value:
    return Value(shape, scales=(scale,), zero_points=(zero,), data=data)


def _conv(source: Value, weights: Value, target: Value, **options: Any) -> bytes:
    chosen = window_options(schema.Conv2DOptionsT, **(_CONVOLUTION | options))
    kind = schema.BuiltinOptions.Conv2DOptions
    return build(Case("conv", _OPERATOR.CONV_2D, (source, weights, target), chosen, kind))


def _weights(*shape: int, zero: int = 0) -> Value:
    return _int8(*shape, zero=zero, data=np.ones(shape))


def test_c_of_a_model_is_the_same_every_time() -> None:
    """Byte for byte; it says how much memory and flash the model takes."""
    model = _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 2), _int8(1, 4, 4, 3))
    source = generate_source(model)
    assert source == generate_source(model)
    assert (source.arena_bytes, source.weights_bytes) == (32 + 48, 3 * 3 * 3 * 2)
    assert "  conv_2d(&op0);\n" in source.text
    assert ".input = (int8_t *)(arena + 48)" in source.text


def test_every_kernel_is_for_an_operator_that_tflm_has() -> None:
    """The names are the schema's."""
    assert KERNEL_OPERATORS < TFLM_OPERATORS


def test_operator_without_a_kernel_is_named() -> None:
    """The message lists what there is."""
    with pytest.raises(UnsupportedOperatorError, match=r"operator: expected one of ADD, .*, SOFTMAX, found ABS"):
        generate_source(colour_model())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 2), _int8(1, 4, 4, 3), dilationWFactor=2),
            "CONV_2D: expected a dilation of 1",
        ),
        (
            _conv(_int8(2, 4, 4, 2), _weights(3, 3, 3, 2), _int8(2, 4, 4, 3)),
            "CONV_2D: expected a batch of 1",
        ),
        (
            _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 1), _int8(1, 4, 4, 3)),
            "CONV_2D: expected one group of channels",
        ),
        (
            _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 2, zero=4), _int8(1, 4, 4, 3)),
            "CONV_2D: expected weights with the zero point 0",
        ),
        (
            _conv(_int8(1, 4, 4, 2), _int8(3, 3, 3, 2), _int8(1, 4, 4, 3)),
            "CONV_2D: expected inputs that are written",
        ),
        (
            _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 2), _int8(1, 4, 4, 3), fusedActivationFunction=4),
            "CONV_2D: expected no activation, RELU, RELU6 or RELU_N1_TO_1",
        ),
        (
            build(Case("add", _OPERATOR.ADD, (_int8(1, 4), _weights(4), _int8(1, 4)))),
            "ADD: expected inputs of one shape",
        ),
        (
            build(Case("quantise", _OPERATOR.QUANTIZE, (_int8(4), _int8(4, scale=0.2)))),
            "QUANTIZE: expected float32 to int8, found int8 to int8",
        ),
        (
            build(Case("softmax", _OPERATOR.SOFTMAX, (_int8(4), _int8(4)))),
            "SOFTMAX: expected an output with the scale 1/256 and the zero point -128",
        ),
    ],
)
def test_use_that_no_kernel_covers_is_named(model: bytes, message: str) -> None:
    """The kernel exists, but not for this use of it."""
    with pytest.raises((UnsupportedOperatorError, ModelFormatError), match=message):
        generate_source(model)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 2), _int8(1, 5, 4, 3)),
            "CONV_2D: expected an output of 4 positions, found 5",
        ),
        (
            _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 2), _int8(1, 4, 4, 2)),
            "CONV_2D: expected a filter for each output channel",
        ),
        (
            _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 2), _int8(1, 4, 4, 3), strideH=0),
            "CONV_2D: expected lengths and strides above 0",
        ),
        (
            _conv(_int8(1, 4, 4, 2, scale=0.0), _weights(3, 3, 3, 2), _int8(1, 4, 4, 3)),
            "CONV_2D: expected a scale above 0",
        ),
        (
            _conv(_int8(1, 4, 4, 2, zero=300), _weights(3, 3, 3, 2), _int8(1, 4, 4, 3)),
            "CONV_2D: expected a zero point of int8",
        ),
        (
            _conv(_int8(1, 4, 4, 2), _weights(3, 3, 3, 2), Value((1, 4, 4, 3))),
            "CONV_2D: expected a tensor with one scale and zero point",
        ),
        (
            build(Case("reshape", _OPERATOR.RESHAPE, (_int8(4), _int8(5)))),
            "RESHAPE: expected an output of the input's size",
        ),
        (
            build(Case("dense", _OPERATOR.FULLY_CONNECTED, (_int8(1, 7), _weights(3, 4), _int8(1, 3)))),
            "FULLY_CONNECTED: expected rows as long as the weights'",
        ),
    ],
)
def test_tensors_that_do_not_belong_together_are_refused(model: bytes, message: str) -> None:
    """A kernel would read or write beyond them."""
    with pytest.raises(ModelFormatError, match=message):
        generate_source(model)


def test_operators_that_compute_only_a_shape_are_left_out() -> None:
    """SHAPE has no kernel and needs none: it feeds a RESHAPE, whose output is known."""
    reshape, shape = schema.OperatorT(), schema.OperatorT()
    shape.opcodeIndex, shape.inputs, shape.outputs = 0, [0], [1]
    reshape.opcodeIndex, reshape.inputs, reshape.outputs = 1, [0, 1], [2]
    values = [_int8(2, 3), Value((2,), "int32"), _int8(3, 2)]
    model = build_graph([_OPERATOR.SHAPE, _OPERATOR.RESHAPE], values, [shape, reshape], ends=(0, 2))
    assert "void infer(void) {\n  reshape(&op0);\n}" in generate_source(model).text


def test_small_file_that_describes_a_large_program_is_refused() -> None:
    """Operators may share a buffer of weights, but each gets an array of its own."""
    chosen = window_options(schema.FullyConnectedOptionsT)
    weights = _weights(512, 512)
    values = [_int8(1, 512), weights, *(_int8(1, 512) for _ in range(5))]
    chain = [_operator(0 if place == 0 else place + 1, place + 2, chosen) for place in range(5)]
    model = build_graph([_OPERATOR.FULLY_CONNECTED], values, chain, ends=(0, 6))
    assert len(model) < 300_000
    with pytest.raises(OverBudgetError, match="weights: expected at most 1,048,576 bytes of flash, found 1,310,720"):
        generate_source(model)


def test_endless_list_of_operators_is_refused() -> None:
    """Before any C is written for them."""
    values = [_int8(4) for _ in range(1026)]
    chain = [_operator(place, place + 1, None) for place in range(1025)]
    with pytest.raises(ModelFormatError, match="model: expected at most 1024 operators, found 1025"):
        generate_source(build_graph([_OPERATOR.RESHAPE], values, chain, ends=(0, 1025)))


def test_operator_with_two_outputs_is_refused() -> None:
    """No kernel writes two."""
    split = schema.OperatorT()
    split.opcodeIndex, split.inputs, split.outputs = 0, [0], [1, 2]
    values = [_int8(4), _int8(2), _int8(2)]
    with pytest.raises(ModelFormatError, match="model: expected operators with one output each"):
        generate_source(build_graph([_OPERATOR.SPLIT], values, [split], ends=(0, 1)))


def _operator(source: int, target: int, options: Any) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.outputs = 0, [target]
    operator.inputs = [source, 1] if options else [source]
    if options:
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    return operator


def test_program_that_is_none_of_ours_is_refused() -> None:
    """Too short, or without the magic."""
    with pytest.raises(ProgramFormatError, match="program: expected at least 92 bytes, found 91"):
        parse_program(bytes(91))
    with pytest.raises(ProgramFormatError, match="program: expected the magic b'TFP1'"):
        parse_program(bytes(92))


def test_program_whose_output_lies_outside_its_arena_is_refused() -> None:
    """The host would read memory that is not the program's."""
    words = [int.from_bytes(b"TFP1", "little"), 0, 0x10_0000, 16, 0x10_0020, 64, 64]
    facts = b"".join(word.to_bytes(4, "little") for word in words)
    with pytest.raises(ProgramFormatError, match="expected tensors within an arena of 64 bytes, found 0x100020"):
        parse_program(bytes(64) + facts)


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is compiled, and the operator knows the package's name."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("arm-none-eabi-gcc") is None
    for call in (require_toolchain, lambda: compile_program("")):
        with pytest.raises(CompilerMissingError, match=r"expected arm-none-eabi-gcc .* gcc-arm-none-eabi"):
            call()
