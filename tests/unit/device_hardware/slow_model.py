"""A model that takes its time on a core, for tests of device time."""

import flatbuffers  # type: ignore[import-untyped] # the package has no annotations
from tflite_micro.tensorflow.lite.micro.python import schema_py_generated as schema


def slow_model() -> bytes:
    """A model of 8.3 M multiply-accumulates: 0.27 s on a core. The fake of the interpreter answers for it."""
    model = schema.ModelT()
    model.version, model.buffers = 3, [schema.BufferT()]
    model.operatorCodes = [_code(schema.BuiltinOperator.ABS), _code(schema.BuiltinOperator.CONV_2D)]
    graph = schema.SubGraphT()
    shapes = ([1, 1, 1, 3], [1, 1, 1, 3], [64, 3, 3, 4], [1, 60, 60, 64])
    graph.tensors = [_tensor(shape) for shape in shapes]
    graph.inputs, graph.outputs = [0], [1]
    graph.operators = [_operator(0, [0], [1]), _operator(1, [0, 2], [3])]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _code(number: int) -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, number, 1
    return code


def _tensor(shape: list[int]) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.shape, tensor.type, tensor.buffer = shape, schema.TensorType.FLOAT32, 0
    return tensor


def _operator(code: int, inputs: list[int], outputs: list[int]) -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, inputs, outputs
    return operator
