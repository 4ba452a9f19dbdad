"""From operators to C: for each one a constant table and a call of its kernel (firmware/kernels.h).

Only numbers of the model reach the C, never its names: a hostile model cannot write code. An operator without a
kernel, and a use of one that its kernel does not cover, raises UnsupportedOperatorError, which names it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tinyml.errors import ModelFormatError
from tinyml.native.arithmetic import (
    ADD_LEFT_SHIFT,
    INT8_HIGH,
    INT8_LOW,
    Multiplier,
    activation_range,
    fixed_point,
    layer_factor,
    padding_before,
    quotient,
    softmax_scaling,
)
from tinyml.native.errors import UnsupportedOperatorError
from tinyml.native.graph import ABSENT, Graph, Operator, Tensor
from tinyml.native.memory import MemoryPlan

_VALUES_PER_LINE = 24
_IMAGE_AXES = 4
_MATRIX_AXES = 2


@dataclass(frozen=True, slots=True)
class Lowered:
    """C of all operators.

    Attributes:
        declarations: constant arrays and tables, in the order in which they refer to each other.
        calls: one for each operator, in the order of execution.
    """

    declarations: tuple[str, ...]
    calls: tuple[str, ...]


def lower(graph: Graph, plan: MemoryPlan) -> Lowered:
    """Write the tables and calls of a graph.

    Raises:
        UnsupportedOperatorError: there is no kernel for an operator, or for the way that it is used.
        ModelFormatError: an operator's tensors do not belong together.
    """
    declarations: list[str] = []
    calls = []
    for step, operator in enumerate(graph.operators):
        emit = _KERNELS.get(operator.name)
        if emit is None:
            raise UnsupportedOperatorError(f"operator: expected one of {', '.join(_KERNELS)}, found {operator.name}")
        lowering = _Lowering(graph, plan, operator, step)
        kernel, table = emit(lowering)
        struct, fields = table
        declarations += lowering.arrays
        declarations.append(f"static const struct {struct} op{step} = {{\n{_initialiser(fields)}}};")
        calls.append(f"{kernel}(&op{step});")
    return Lowered(tuple(declarations), tuple(calls))


Fields = dict[str, str]
Table = tuple[str, Fields]


@dataclass(frozen=True, slots=True)
class _Lowering:
    """One operator on its way to C; collects the arrays that its table refers to."""

    graph: Graph
    plan: MemoryPlan
    operator: Operator
    step: int
    arrays: list[str] = field(default_factory=list)

    def input(self, place: int) -> Tensor:
        return self.graph.tensors[self._index(self.operator.inputs, place)]

    def output(self) -> Tensor:
        return self.graph.tensors[self._index(self.operator.outputs, 0)]

    def pointer(self, place: int, *, c_type: str = "int8_t") -> str:
        """Return where an input lies: in the arena, or in an array of its own."""
        index = self._index(self.operator.inputs, place)
        if index in self.plan.offsets:
            return _in_arena(self.plan.offsets[index], c_type)
        return self.array(f"input{place}", self.input(place))

    def output_pointer(self, *, c_type: str = "int8_t") -> str:
        return _in_arena(self.plan.offsets[self._index(self.operator.outputs, 0)], c_type)

    def array(self, name: str, tensor: Tensor) -> str:
        """Write a stored tensor as an array and return its name."""
        values = np.frombuffer(tensor.content, np.dtype(tensor.dtype).newbyteorder("<"))
        return self.constants(f"{tensor.dtype}_t", name, (str(value) for value in values.tolist()))

    def constants(self, c_type: str, name: str, values: Iterable[str]) -> str:
        full_name = f"op{self.step}_{name}"
        self.arrays.append(f"static const {c_type} {full_name}[] = {{\n{_lines(list(values))}}};")
        return full_name

    def require(self, holds: bool, rule: str) -> None:  # noqa: FBT001 - the condition, as in an assertion
        if not holds:
            raise ModelFormatError(f"{self.operator.name}: expected {rule}")

    def support(self, holds: bool, use: str) -> None:  # noqa: FBT001 - the condition, as in an assertion
        if not holds:
            raise UnsupportedOperatorError(f"{self.operator.name}: expected {use}, found another use of it")

    def types(self, inputs: str, output: str) -> None:
        """Support one combination of types: of the first input and of the output."""
        found = f"{self.input(0).dtype} to {self.output().dtype}"
        if found != f"{inputs} to {output}":
            raise UnsupportedOperatorError(f"{self.operator.name}: expected {inputs} to {output}, found {found}")

    def affine(self, tensor: Tensor) -> tuple[float, int]:
        """Return scale and zero point of a tensor that has one of each."""
        self.require(len(tensor.scales) == len(tensor.zero_points) == 1, "a tensor with one scale and zero point")
        self.require(INT8_LOW <= tensor.zero_points[0] <= INT8_HIGH, "a zero point of int8")
        self.require(math.isfinite(tensor.scales[0]) and tensor.scales[0] > 0, "a scale above 0")
        return tensor.scales[0], tensor.zero_points[0]

    def range(self) -> tuple[int, int]:
        found = activation_range(self.operator.options.activation, *self.affine(self.output()))
        self.support(found is not None, "no activation, RELU, RELU6 or RELU_N1_TO_1")
        assert found is not None  # noqa: S101 - for the type checker; `support` has raised
        return found

    def _index(self, indices: tuple[int, ...], place: int) -> int:
        self.require(place < len(indices) and indices[place] != ABSENT, f"at least {place + 1} tensors")
        return indices[place]


def _in_arena(offset: int, c_type: str) -> str:
    return f"({c_type} *)(arena + {offset})"


def _lines(values: list[str]) -> str:
    starts = range(0, len(values), _VALUES_PER_LINE)
    return "".join(f"    {', '.join(values[start : start + _VALUES_PER_LINE])},\n" for start in starts)


def _initialiser(fields: Mapping[str, str]) -> str:
    return "".join(f"    .{name} = {value},\n" for name, value in fields.items())


def _factor(factor: Multiplier) -> str:
    return f"{{{factor.multiplier}, {factor.shift}}}"


def _conv_2d(op: _Lowering) -> tuple[str, Table]:
    weights, window = op.input(1), _convolution_window(op)
    op.require(weights.shape[0] == op.output().shape[3], "a filter for each output channel")
    op.support(weights.shape[3] == op.input(0).shape[3], "one group of channels")
    return "conv_2d", ("convolution", _convolution(op) | {"window": window})


def _depthwise_conv_2d(op: _Lowering) -> tuple[str, Table]:
    weights, window = op.input(1), _convolution_window(op)
    channels, outputs = op.input(0).shape[3], op.output().shape[3]
    op.require(weights.shape[0] == 1 and weights.shape[3] == outputs, "a filter for each output channel")
    op.require(outputs % channels == 0, "a multiple of the input's channels")
    return "depthwise_conv_2d", ("convolution", _convolution(op) | {"window": window})


def _convolution_window(op: _Lowering) -> str:
    op.types("int8", "int8")
    op.support(op.operator.options.dilation == (1, 1), "a dilation of 1")
    weights = op.input(1)
    op.require(len(weights.shape) == _IMAGE_AXES, "weights of 4 axes")
    return _window(op, weights.shape[1], weights.shape[2])


def _window(op: _Lowering, height: int, width: int) -> str:
    source, target, options = op.input(0).shape, op.output().shape, op.operator.options
    op.require(len(source) == len(target) == _IMAGE_AXES, "an input and an output of 4 axes")
    op.support(source[0] == target[0] == 1, "a batch of 1")
    op.require(min(*source, *target, *options.stride, height, width) > 0, "lengths and strides above 0")
    pads = []
    for axis, window, stride in ((1, height, options.stride[0]), (2, width, options.stride[1])):
        # padding.h, ComputeOutSize: how many steps fit
        room = source[axis] + (stride - 1 if options.same_padding else stride - window)
        op.require(room // stride == target[axis], f"an output of {room // stride} positions, found {target[axis]}")
        before = padding_before(source[axis], target[axis], window=window, stride=stride)
        pads.append(before if options.same_padding else 0)
    values = (*source[1:], *target[1:], height, width, *options.stride, *pads)
    return f"{{{', '.join(map(str, values))}}}"


def _convolution(op: _Lowering) -> Fields:
    fields = _layer(op, channels=op.output().shape[3])
    return {"input": op.pointer(0), "output": op.output_pointer()} | fields


def _layer(op: _Lowering, *, channels: int) -> Fields:
    """Return what a convolution and a fully connected layer share: weights, bias and requantisation."""
    weights = op.input(1)
    op.support(weights.dtype == "int8" and bool(weights.content), "stored weights of int8")
    op.support(not any(weights.zero_points), "weights with the zero point 0")
    op.require(len(weights.content) == weights.elements, "as many weights as their shape says")
    scale, zero_point = op.affine(op.output())
    low, high = op.range()
    factors = op.constants("struct factor", "factors", map(_factor, _channel_factors(op, weights, scale, channels)))
    return {
        "weights": op.array("weights", weights),
        "bias": _bias(op, channels),
        "input_offset": str(-op.affine(op.input(0))[1]),
        "requantisation": f"{{{factors}, {zero_point}, {low}, {high}}}",
    }


def _channel_factors(op: _Lowering, weights: Tensor, output_scale: float, channels: int) -> list[Multiplier]:
    op.require(len(weights.scales) in {1, channels}, f"1 or {channels} scales, found {len(weights.scales)}")
    # A convolution multiplies in double precision even if its weights have one scale.
    per_channel = len(weights.scales) > 1 or op.operator.name != "FULLY_CONNECTED"
    input_scale, _ = op.affine(op.input(0))
    factors = [
        fixed_point(layer_factor(input_scale, scale, output_scale, per_channel=per_channel)) for scale in weights.scales
    ]
    return factors * (channels // len(factors))


def _bias(op: _Lowering, channels: int) -> str:
    if len(op.operator.inputs) <= 2 or op.operator.inputs[2] == ABSENT:  # noqa: PLR2004 - input, weights, bias
        return "0"
    bias = op.input(2)
    op.support(bias.dtype == "int32" and bool(bias.content), "a stored bias of int32")
    op.require(len(bias.content) == bias.size_bytes and bias.elements == channels, "a bias for each channel")
    return op.array("bias", bias)


def _fully_connected(op: _Lowering) -> tuple[str, Table]:
    op.types("int8", "int8")
    op.support(not op.operator.options.shuffled_weights, "weights in their plain order")
    weights = op.input(1)
    op.require(len(weights.shape) == _MATRIX_AXES and min(weights.shape) > 0, "weights of 2 axes")
    units, inputs = weights.shape
    rows, rest = divmod(op.input(0).elements, inputs)
    op.require(rest == 0 and op.output().elements == rows * units, "rows as long as the weights'")
    fields = {"input": op.pointer(0), "output": op.output_pointer()} | _layer(op, channels=units)
    return "fully_connected", (
        "fully_connected",
        fields | {"rows": str(rows), "inputs": str(inputs), "outputs": str(units)},
    )


def _pool(op: _Lowering) -> Table:
    op.types("int8", "int8")
    op.require(op.input(0).shape[-1:] == op.output().shape[-1:], "as many channels as the input has")
    window = _window(op, *op.operator.options.filter)
    low, high = op.range()
    fields = {"input": op.pointer(0), "output": op.output_pointer(), "window": window}
    return "pool", fields | {"low": str(low), "high": str(high)}


def _average_pool_2d(op: _Lowering) -> tuple[str, Table]:
    return "average_pool_2d", _pool(op)


def _max_pool_2d(op: _Lowering) -> tuple[str, Table]:
    return "max_pool_2d", _pool(op)


def _add(op: _Lowering) -> tuple[str, Table]:
    op.types("int8", "int8")
    first, second, output = op.input(0), op.input(1), op.output()
    op.support(first.shape == second.shape == output.shape, "inputs of one shape")
    op.support(second.dtype == "int8", "two inputs of int8")
    (first_scale, first_zero), (second_scale, second_zero) = op.affine(first), op.affine(second)
    scale, zero_point = op.affine(output)
    # add_common.cc: both inputs are brought to twice the larger scale, with head-room on the left
    common = 2 * max(first_scale, second_scale)
    low, high = op.range()
    fields = {
        "first": op.pointer(0),
        "second": op.pointer(1),
        "output": op.output_pointer(),
        "length": str(output.elements),
        "first_offset": str(-first_zero),
        "second_offset": str(-second_zero),
        "left_shift": str(ADD_LEFT_SHIFT),
        "first_factor": _factor(fixed_point(first_scale / common)),
        "second_factor": _factor(fixed_point(second_scale / common)),
        "output_factor": _factor(fixed_point(quotient(common, (1 << ADD_LEFT_SHIFT) * scale))),
        "zero_point": str(zero_point),
        "low": str(low),
        "high": str(high),
    }
    return "add", ("addition", fields)


def _softmax(op: _Lowering) -> tuple[str, Table]:
    op.types("int8", "int8")
    source, target = op.input(0), op.output()
    op.require(source.shape == target.shape and source.elements > 0, "an output of the input's shape")
    op.support(op.affine(target) == (1 / 256, INT8_LOW), "an output with the scale 1/256 and the zero point -128")
    factor, smallest = softmax_scaling(op.operator.options.beta, op.affine(source)[0])
    depth = source.shape[-1] if source.shape else 1
    fields = {
        "input": op.pointer(0),
        "output": op.output_pointer(),
        "rows": str(source.elements // depth),
        "depth": str(depth),
        "input_factor": _factor(factor),
        "smallest_difference": str(smallest),
    }
    return "softmax", ("softmax", fields)


def _quantize(op: _Lowering) -> tuple[str, Table]:
    op.types("float32", "int8")
    scale, zero_point = op.affine(op.output())
    source, target = op.pointer(0, c_type="float"), op.output_pointer()
    return "quantize", ("quantise", _conversion(op, source, target, scale=scale, zero_point=zero_point))


def _dequantize(op: _Lowering) -> tuple[str, Table]:
    op.types("int8", "float32")
    scale, zero_point = op.affine(op.input(0))
    source, target = op.pointer(0), op.output_pointer(c_type="float")
    return "dequantize", ("dequantise", _conversion(op, source, target, scale=scale, zero_point=zero_point))


def _conversion(op: _Lowering, source: str, target: str, *, scale: float, zero_point: int) -> Fields:
    op.require(op.input(0).elements == op.output().elements, "as many outputs as inputs")
    return {
        "input": source,
        "output": target,
        "length": str(op.output().elements),
        "scale": f"{scale.hex()}f",
        "zero_point": str(zero_point),
    }


def _reshape(op: _Lowering) -> tuple[str, Table]:
    op.require(op.input(0).size_bytes == op.output().size_bytes, "an output of the input's size")
    fields = {"input": op.pointer(0), "output": op.output_pointer(), "bytes": str(op.output().size_bytes)}
    return "reshape", ("reshape", fields)


_KERNELS: dict[str, Callable[[_Lowering], tuple[str, Table]]] = {
    "ADD": _add,
    "AVERAGE_POOL_2D": _average_pool_2d,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _max_pool_2d,
    "QUANTIZE": _quantize,
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
}
KERNEL_OPERATORS = frozenset(_KERNELS)
