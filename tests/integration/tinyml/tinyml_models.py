"""Real models, and models made to misbehave in one way each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flatbuffers  # type: ignore[import-untyped] # the package has no annotations
import numpy as np
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema

from protocol.model import InputContract
from tinyml.fetch import fetch_model
from tinyml.workers import ModelImage


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A fetched model and what is known of it."""

    content: bytes
    contract: InputContract
    arena_bytes: int
    macs: int
    labels: tuple[str, ...]

    @property
    def image(self) -> ModelImage:
        """The model with the smallest arena that it loads in."""
        return ModelImage(self.content, self.arena_bytes)

    @property
    def blank(self) -> np.ndarray:
        """An input of zeros."""
        return np.zeros(self.contract.shape, self.contract.dtype)


_CIFAR_10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_demo_model(name: str) -> DemoModel:
    content = fetch_model(name).read_bytes()
    if name == "person-detection":
        contract = InputContract(shape=(1, 96, 96, 3), dtype="float32")
        return DemoModel(content, contract, 168_368, 7_489_664, ("person", "no person"))
    contract = InputContract(shape=(1, 32, 32, 3), dtype="int8", offset=-128.0)
    return DemoModel(content, contract, 55_984, 12_501_632, _CIFAR_10)


def alter(content: bytes, change: Callable[[Any], None]) -> bytes:
    """Change a model through its schema, so that it stays a well-formed file."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    change(model)
    return _pack(model)


def use_missing_buffer(model: Any) -> None:
    """Put the first weights into a buffer that does not exist: TFLM dereferences it."""
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[0].inputs[1]].buffer = 0x3FFF_FFFF  # 4 GiB past the end


def endless_model() -> bytes:
    """A valid model that never answers: `while x == x: x = |x|`."""
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [_code(schema.BuiltinOperator.WHILE), _code(71), _code(101)]  # EQUAL, ABS
    model.buffers = [schema.BufferT()]
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    loop = _operator(0, inputs=[0], outputs=[1])
    loop.builtinOptionsType, loop.builtinOptions = schema.BuiltinOptions.WhileOptions, options
    floats, truth = schema.TensorType.FLOAT32, schema.TensorType.BOOL
    model.subgraphs = [
        _graph([floats, floats], loop),
        _graph([floats, truth], _operator(1, inputs=[0, 0], outputs=[1])),
        _graph([floats, floats], _operator(2, inputs=[0], outputs=[1])),
    ]
    return _pack(model)


def one_operator_model(number: int, custom: str | None = None) -> bytes:
    """A model of one operator, which TFLM looks up before it looks at anything else of it."""
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [_code(number)]
    model.operatorCodes[0].customCode = custom
    model.buffers = [schema.BufferT()]
    model.subgraphs = [_graph([schema.TensorType.FLOAT32] * 2, _operator(0, inputs=[0], outputs=[1]))]
    return _pack(model)


def _pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _code(number: int) -> Any:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
    return code


def _operator(code: int, *, inputs: list[int], outputs: list[int]) -> Any:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    return operator


def _graph(types: list[int], operator: Any) -> Any:
    graph = schema.SubGraphT()
    graph.tensors = []
    for kind in types:
        tensor = schema.TensorT()
        tensor.shape, tensor.type, tensor.buffer = [1], kind, 0
        graph.tensors.append(tensor)
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    return graph
