"""Multiply-accumulates (MACs) of a model, by the classes of operator that cost alike on a Cortex-M4.

A depthwise convolution, and an ordinary one with few input channels, leaves the dual 16-bit multiplier idle and costs
about 2.5 times as much per MAC as a convolution with many channels (MLPerf Tiny results, see `tinyml.latency`).
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from tinyml.errors import ModelFormatError

FEW_CHANNELS = 4  # a convolution with fewer input channels counts with the depthwise ones

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class OperatorShapes:
    """An operator's name and the shapes of its tensors; an optional input left out has the shape ()."""

    name: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]


@dataclass(frozen=True, slots=True)
class MacCounts:
    """Multiply-accumulates of one inference.

    Attributes:
        convolution: convolutions with at least 4 input channels, 1×1 included.
        few_channels: convolutions with fewer input channels.
        depthwise: depthwise convolutions.
        fully_connected: fully connected layers.
        uncounted: operators that multiply and accumulate but are not counted.
    """

    convolution: int = 0
    few_channels: int = 0
    depthwise: int = 0
    fully_connected: int = 0
    uncounted: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """All that are counted."""
        return self.convolution + self.few_channels + self.depthwise + self.fully_connected


class _Class(Enum):
    CONVOLUTION = "convolution"
    FEW_CHANNELS = "few_channels"
    DEPTHWISE = "depthwise"
    FULLY_CONNECTED = "fully_connected"


_UNCOUNTED = frozenset(
    {"TRANSPOSE_CONV", "CONV_3D", "BATCH_MATMUL", "SVDF", "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "WHILE", "IF"}
)


def count_macs(operators: Iterable[OperatorShapes]) -> MacCounts:
    """Count the multiply-accumulates of the operators of a graph, each run once.

    Raises:
        ModelFormatError: an operator has not the tensors that its kind needs.
    """
    counts: Counter[str] = Counter()
    uncounted = set()
    for operator in operators:
        if operator.name in _UNCOUNTED:
            uncounted.add(operator.name)
        elif operator.name in _COUNTERS:
            kind, macs = _count(operator)
            counts[kind.value] += macs
    return MacCounts(**counts, uncounted=tuple(sorted(uncounted)))


def _count(operator: OperatorShapes) -> tuple[_Class, int]:
    try:
        return _COUNTERS[operator.name](operator.inputs[1], operator.outputs[0])
    except (IndexError, ValueError, ZeroDivisionError) as error:
        raise ModelFormatError(
            f"{operator.name}: expected a filter and an output, found shapes {operator.inputs} and {operator.outputs}"
        ) from error


def _convolution(weights: Shape, output: Shape) -> tuple[_Class, int]:
    _, height, width, channels = weights
    kind = _Class.FEW_CHANNELS if channels < FEW_CHANNELS else _Class.CONVOLUTION
    return kind, math.prod(output) * height * width * channels


def _depthwise(weights: Shape, output: Shape) -> tuple[_Class, int]:
    _, height, width, _ = weights
    return _Class.DEPTHWISE, math.prod(output) * height * width


def _fully_connected(weights: Shape, output: Shape) -> tuple[_Class, int]:
    _, inputs = weights
    return _Class.FULLY_CONNECTED, math.prod(output) * inputs


_COUNTERS: dict[str, Callable[[Shape, Shape], tuple[_Class, int]]] = {
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
}
