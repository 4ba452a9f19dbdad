"""The facts of a .tflite file, read without running it.

A malformed file raises ModelFormatError and nothing else. Checks, in this order:
    1. size and the identifier TFL3;
    2. every offset within the file (the flatbuffers library reads through bounds-checked unpacking);
    3. every index: operator codes, tensors, buffers. An out-of-range buffer index makes TFLM crash.
    4. weights: as many bytes as shape and type say, which TFLM trusts.
What is not checked here: the options of operators, and what TFLM makes of them; inference therefore runs in a child
process.

Schema: tensorflow/lite/schema/schema.fbs, through the generated classes of the package tflite.
"""

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import tflite  # type: ignore[import-untyped] # the package has no annotations

from tinyml.errors import ModelFormatError
from tinyml.macs import MacCounts, OperatorShapes, count_macs

MAX_MODEL_BYTES = 16 * 1024 * 1024  # the flash of the whole chip
_IDENTIFIER = b"TFL3"  # bytes 4 to 8
_MIN_MODEL_BYTES = 8
_DTYPES = {
    tflite.TensorType.FLOAT32: "float32",
    tflite.TensorType.FLOAT16: "float16",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.UINT8: "uint8",
    tflite.TensorType.INT64: "int64",
    tflite.TensorType.BOOL: "bool",
    tflite.TensorType.INT16: "int16",
    tflite.TensorType.INT8: "int8",
    tflite.TensorType.FLOAT64: "float64",
    tflite.TensorType.INT4: "int4",
}
_BITS = {"bool": 8, "int4": 4} | {
    f"{kind}{bits}": bits for kind in ("float", "int", "uint") for bits in (8, 16, 32, 64)
}
_FOREIGN_ERRORS = (struct.error, IndexError, ValueError, TypeError, OverflowError, AttributeError)


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How a stored integer stands for a real number: real = scale · (stored - zero point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True, slots=True)
class TensorFacts:
    """A tensor's shape and type; `quantisation` is None for a float tensor and per-channel weights."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or int4
    quantisation: Quantisation | None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model says of itself.

    Attributes:
        inputs: input tensors in the order in which TFLM numbers them.
        outputs: output tensors, likewise.
        operators: the name of every operator in the order of execution, a custom one as `CUSTOM:name`.
        macs: multiply-accumulates of one inference.
    """

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    operators: tuple[str, ...]
    macs: MacCounts


def read_model_facts(content: bytes) -> ModelFacts:
    """Read what a .tflite file says of itself.

    Args:
        content: the FlatBuffer.

    Raises:
        ModelFormatError: no .tflite file, truncated, an index or a shape out of bounds.
    """
    # 1. size and identifier
    if not _MIN_MODEL_BYTES <= len(content) <= MAX_MODEL_BYTES:
        raise ModelFormatError(f"model: expected 8 to {MAX_MODEL_BYTES} bytes, found {len(content)}")
    if content[4:8] != _IDENTIFIER:
        raise ModelFormatError(f"model: expected the identifier {_IDENTIFIER!r}, found {content[4:8]!r}")
    try:
        return _Reader(content).facts()
    # 2. offsets
    except _FOREIGN_ERRORS as error:
        raise ModelFormatError(f"model: expected a well-formed FlatBuffer, found: {error}") from error


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._size = len(content)
        self._model = tflite.Model.GetRootAs(content, 0)
        self._buffers = [
            self._model.Buffers(index).DataLength()
            for index in range(self._count(self._model.BuffersLength(), "buffers"))
        ]
        self._operator_names = [
            _operator_name(self._model.OperatorCodes(index))
            for index in range(self._count(self._model.OperatorCodesLength(), "operator codes"))
        ]
        self._graphs = [
            _Graph(self._model.Subgraphs(index), self._size, self._buffers)
            for index in range(self._count(self._model.SubgraphsLength(), "subgraphs"))
        ]
        if not self._graphs:
            raise ModelFormatError("model: expected a subgraph, found none")

    def facts(self) -> ModelFacts:
        main = self._graphs[0]
        operators = [self._operators(graph) for graph in self._graphs]
        names = tuple(shapes.name for graph in operators for shapes in graph)
        return ModelFacts(
            inputs=main.inputs,
            outputs=main.outputs,
            operators=names,
            macs=count_macs(operators[0]),
        )

    def _count(self, length: int, what: str) -> int:
        return _bounded(length, self._size // 4, what)  # each takes an offset of 4 bytes

    def _operators(self, graph: "_Graph") -> list[OperatorShapes]:
        return list(graph.operators(self._operator_names))


class _Graph:
    def __init__(self, graph: tflite.SubGraph, size: int, buffers: list[int]) -> None:
        self._graph = graph
        self._size = size
        tensors = [graph.Tensors(index) for index in range(_bounded(graph.TensorsLength(), size // 4, "tensors"))]
        self._tensors = [_tensor_facts(tensor, size, buffers) for tensor in tensors]
        self.inputs = tuple(self._listed(graph.InputsLength(), graph.Inputs))
        self.outputs = tuple(self._listed(graph.OutputsLength(), graph.Outputs))

    def operators(self, names: list[str]) -> Iterator[OperatorShapes]:
        for index in range(_bounded(self._graph.OperatorsLength(), self._size // 4, "operators")):
            operator = self._graph.Operators(index)
            # 3. indices
            name = names[_bounded(operator.OpcodeIndex(), len(names) - 1, "operator code")]
            inputs = self._listed(operator.InputsLength(), operator.Inputs, optional=True)
            outputs = self._listed(operator.OutputsLength(), operator.Outputs)
            yield OperatorShapes(name, tuple(t.shape for t in inputs), tuple(t.shape for t in outputs))

    def _listed(self, length: int, index_at: Callable[[int], int], *, optional: bool = False) -> list[TensorFacts]:
        """Look up the tensors of a list of indices; -1 stands for an operator's optional input left out."""
        indices = [index_at(place) for place in range(_bounded(length, self._size // 4, "tensor list"))]
        absent = TensorFacts((), "float32", None)
        return [
            absent
            if optional and index == -1
            else self._tensors[_bounded(index, len(self._tensors) - 1, "tensor index")]
            for index in indices
        ]


def _bounded(found: int, highest: int, what: str) -> int:
    if not 0 <= found <= highest:
        raise ModelFormatError(f"{what}: expected 0 to {highest}, found {found}")
    return found


def _operator_name(code: tflite.OperatorCode) -> str:
    # Codes up to 127 may stand in the old 8-bit field alone (schema.fbs, OperatorCode).
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == tflite.BuiltinOperator.CUSTOM:
        return f"CUSTOM:{(code.CustomCode() or b'').decode(errors='replace')}"
    return str(tflite.utils.BUILTIN_OPCODE2NAME.get(number, f"BUILTIN:{number}"))


def _tensor_facts(tensor: tflite.Tensor, size: int, buffers: list[int]) -> TensorFacts:
    stored = buffers[_bounded(tensor.Buffer(), len(buffers) - 1, "buffer index")]
    shape = tuple(int(tensor.Shape(axis)) for axis in range(_bounded(tensor.ShapeLength(), size // 4, "shape")))
    if any(length < 0 for length in shape) or math.prod(shape) > 2**31:
        raise ModelFormatError(f"shape: expected lengths of a tensor below 2 GiB, found {shape}")
    facts = TensorFacts(shape, _DTYPES.get(tensor.Type(), f"type {tensor.Type()}"), _quantisation(tensor))
    # 4. weights; an empty buffer belongs to a tensor of the arena, and a sparse one holds less than its shape
    if stored and tensor.Sparsity() is None:
        _check_weights(facts, stored)
    return facts


def _check_weights(facts: TensorFacts, stored: int) -> None:
    bits = _BITS.get(facts.dtype)
    needed = stored if bits is None else (math.prod(facts.shape) * bits + 7) // 8
    if stored != needed:
        raise ModelFormatError(f"weights: expected {needed} bytes for {facts.dtype} {facts.shape}, found {stored}")


def _quantisation(tensor: tflite.Tensor) -> Quantisation | None:
    quantisation = tensor.Quantization()
    if quantisation is None or quantisation.ScaleLength() != 1 or quantisation.ZeroPointLength() != 1:
        return None
    return Quantisation(float(quantisation.Scale(0)), int(quantisation.ZeroPoint(0)))
