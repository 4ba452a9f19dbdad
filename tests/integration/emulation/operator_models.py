"""Models of one operator with random weights, to compare kernels on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers  # type: ignore[import-untyped] # the package has no annotations
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

_TYPES = {
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
    "float32": schema.TensorType.FLOAT32,
    "int16": schema.TensorType.INT16,
}


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor; with `data` it is a constant."""

    shape: tuple[int, ...]
    dtype: str = "int8"
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()
    axis: int = 0
    data: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Case:
    """One operator; the first value is the model's input, the last its output."""

    name: str
    code: int
    values: tuple[Value, ...]
    options: Any = None
    options_type: int = schema.BuiltinOptions.NONE


def build(case: Case) -> bytes:
    """The model of a case; each value but the last is an input of the operator."""
    last = len(case.values) - 1
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, list(range(last)), [last]
    operator.builtinOptionsType, operator.builtinOptions = case.options_type, case.options
    return build_graph([case.code], case.values, [operator], ends=(0, last))


def build_graph(
    codes: Sequence[int], values: Sequence[Value], operators: Sequence[Any], *, ends: tuple[int, int]
) -> bytes:
    """A model of any operators; `ends` are the indices of its input and output."""
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [_code(code) for code in codes]
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = [_tensor(value, model.buffers) for value in values]
    graph.inputs, graph.outputs, graph.operators = [ends[0]], [ends[1]], list(operators)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def window_options(kind: Any, **settings: int) -> Any:
    """Options of a convolution or a pool."""
    options = kind()
    for name, value in settings.items():
        setattr(options, name, value)
    return options


def _code(number: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    return code


def _tensor(value: Value, buffers: list[Any]) -> Any:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = list(value.shape), _TYPES[value.dtype], 0
    if value.data is not None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(value.data.astype(value.dtype).tobytes(), np.uint8)
        buffers.append(buffer)
        tensor.buffer = len(buffers) - 1
    if value.scales:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = list(value.scales)
        tensor.quantization.zeroPoint = list(value.zero_points or [0] * len(value.scales))
        tensor.quantization.quantizedDimension = value.axis
    return tensor
