"""The graph of a .tflite as the kernels need it: tensors with their data, operators with their options.

`tinyml.flatbuffer` has checked every index and the size of all weights before anything here reads them. A malformed
file raises ModelFormatError and nothing else.

Operators that only compute the shape that a RESHAPE takes are left out: every shape is known when the C is written.
"""

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tflite  # type: ignore[import-untyped] # the package has no annotations

from tinyml.errors import ModelFormatError
from tinyml.flatbuffer import read_model_facts
from tinyml.native.errors import UnsupportedOperatorError

ABSENT = -1  # an operator's optional input left out
_DTYPES = {
    tflite.TensorType.FLOAT32: "float32",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.INT8: "int8",
}
_ELEMENT_BYTES = {"float32": 4, "int32": 4, "int8": 1}
_FOREIGN_ERRORS = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph.

    Attributes:
        shape: lengths of its axes.
        dtype: NumPy's name for the types that the kernels know; of others, their number in the schema.
        content: its values, little-endian, if the model stores them; otherwise it lies in the arena.
        scales: one, or one for each channel; none for floats.
        zero_points: likewise.
    """

    shape: tuple[int, ...]
    dtype: str
    content: bytes
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many values it holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """How much memory it takes.

        Raises:
            UnsupportedOperatorError: no kernel knows its type.
        """
        size = _ELEMENT_BYTES.get(self.dtype)
        if size is None:
            raise UnsupportedOperatorError(f"tensor: expected {', '.join(_ELEMENT_BYTES)}, found {self.dtype}")
        return self.elements * size


@dataclass(frozen=True, slots=True)
class Options:
    """Options of an operator; those that its kind does not have keep their defaults.

    Attributes:
        stride: vertical, horizontal.
        dilation: vertical, horizontal.
        filter: height and width of a pool's window.
        same_padding: whether the output is as large as the input divided by the stride.
        activation: fused activation, a number of tflite.ActivationFunctionType.
        beta: of a softmax.
        shuffled_weights: whether a fully connected layer stores its weights in another order.
    """

    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    filter: tuple[int, int] = (1, 1)
    same_padding: bool = False
    activation: int = tflite.ActivationFunctionType.NONE
    beta: float = 1.0
    shuffled_weights: bool = False


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator and the indices of its tensors; `ABSENT` stands for an optional input left out."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Options


@dataclass(frozen=True, slots=True)
class Graph:
    """A model's main graph: tensors, the operators that its outputs depend on, and the indices of both ends."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_graph(content: bytes) -> Graph:
    """Read the graph of a .tflite file.

    Args:
        content: the FlatBuffer.

    Raises:
        ModelFormatError: no .tflite file, truncated, or something in it out of bounds.
    """
    names = read_model_facts(content).operators
    try:
        model = tflite.Model.GetRootAs(content, 0)
        graph = model.Subgraphs(0)
        operators = [_operator(graph.Operators(place), names[place]) for place in range(graph.OperatorsLength())]
        outputs = _indices(graph.OutputsLength(), graph.Outputs)
        buffers = [_content(model.Buffers(index)) for index in range(model.BuffersLength())]
        return Graph(
            tensors=tuple(_tensor(graph.Tensors(index), buffers) for index in range(graph.TensorsLength())),
            operators=_needed(operators, outputs),
            inputs=_indices(graph.InputsLength(), graph.Inputs),
            outputs=outputs,
        )
    except _FOREIGN_ERRORS as error:
        raise ModelFormatError(f"model: expected a well-formed graph, found: {error}") from error


def _needed(operators: Sequence[Operator], outputs: Sequence[int]) -> tuple[Operator, ...]:
    """Keep the operators that the outputs depend on, in their order."""
    wanted = set(outputs)
    kept = []
    for operator in reversed(operators):
        if wanted.intersection(operator.outputs):
            kept.append(operator)
            wanted.update(operator.inputs)
    return tuple(reversed(kept))


def _indices(length: int, index_at: Callable[[int], int]) -> tuple[int, ...]:
    return tuple(int(index_at(place)) for place in range(length))


def _content(buffer: tflite.Buffer) -> bytes:
    return buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""


def _tensor(tensor: tflite.Tensor, buffers: Sequence[bytes]) -> Tensor:
    scales, zero_points = _quantisation(tensor.Quantization())
    return Tensor(
        shape=tuple(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength())),
        dtype=_DTYPES.get(tensor.Type(), f"type {tensor.Type()}"),
        content=buffers[tensor.Buffer()],
        scales=scales,
        zero_points=zero_points,
    )


def _quantisation(found: tflite.QuantizationParameters | None) -> tuple[tuple[float, ...], tuple[int, ...]]:
    if found is None:
        return (), ()
    return (
        tuple(float(found.Scale(place)) for place in range(found.ScaleLength())),
        tuple(int(found.ZeroPoint(place)) for place in range(found.ZeroPointLength())),
    )


def _operator(operator: tflite.Operator, name: str) -> Operator:
    inputs = _indices(operator.InputsLength(), operator.Inputs)
    return Operator(
        name=name,
        inputs=inputs[:1] if name == "RESHAPE" else inputs,
        outputs=_indices(operator.OutputsLength(), operator.Outputs),
        options=_options(operator, name),
    )


def _options(operator: tflite.Operator, name: str) -> Options:
    read = _READERS.get(name)
    table = operator.BuiltinOptions()
    if read is None or table is None:
        return Options()
    kind, make = read
    found = kind()
    found.Init(table.Bytes, table.Pos)
    return make(found)


def _convolution(found: Any) -> Options:  # noqa: ANN401 - the package tflite is untyped
    return Options(
        stride=(found.StrideH(), found.StrideW()),
        dilation=(found.DilationHFactor(), found.DilationWFactor()),
        same_padding=found.Padding() == tflite.Padding.SAME,
        activation=found.FusedActivationFunction(),
    )


def _pool(found: tflite.Pool2DOptions) -> Options:
    return Options(
        stride=(found.StrideH(), found.StrideW()),
        filter=(found.FilterHeight(), found.FilterWidth()),
        same_padding=found.Padding() == tflite.Padding.SAME,
        activation=found.FusedActivationFunction(),
    )


def _fully_connected(found: tflite.FullyConnectedOptions) -> Options:
    shuffled = found.WeightsFormat() != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT
    return Options(activation=found.FusedActivationFunction(), shuffled_weights=shuffled)


def _add(found: tflite.AddOptions) -> Options:
    return Options(activation=found.FusedActivationFunction())


def _softmax(found: tflite.SoftmaxOptions) -> Options:
    return Options(beta=float(found.Beta()))


_READERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Options]]] = {
    "CONV_2D": (tflite.Conv2DOptions, _convolution),
    "DEPTHWISE_CONV_2D": (tflite.DepthwiseConv2DOptions, _convolution),
    "AVERAGE_POOL_2D": (tflite.Pool2DOptions, _pool),
    "MAX_POOL_2D": (tflite.Pool2DOptions, _pool),
    "FULLY_CONNECTED": (tflite.FullyConnectedOptions, _fully_connected),
    "ADD": (tflite.AddOptions, _add),
    "SOFTMAX": (tflite.SoftmaxOptions, _softmax),
}
