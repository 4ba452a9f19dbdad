"""Where each tensor lies in the arena: static offsets, planned before compilation.

A tensor holds its place from the operator that writes it to the last one that reads it; tensors whose lives do not
overlap may share bytes. The largest are placed first, each at the lowest offset that is free for its whole life.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tinyml.errors import ModelFormatError
from tinyml.native.graph import Graph

ALIGNMENT_BYTES = 16  # TFLM's MicroArenaBufferAlignment()


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Offsets of the tensors in the arena by their index, and the arena's size; all in bytes."""

    offsets: Mapping[int, int]
    arena_bytes: int


@dataclass(frozen=True, slots=True)
class _Life:
    """A tensor's size and the operators that it lives through; -1 stands for before the first."""

    tensor: int
    size_bytes: int
    first: int
    last: int

    def overlaps(self, other: "_Life") -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_memory(graph: Graph) -> MemoryPlan:
    """Give every tensor that the model does not store a place in the arena.

    Raises:
        ModelFormatError: an operator reads a tensor that nothing has written yet.
        UnsupportedOperatorError: a tensor of a type that no kernel knows.
    """
    offsets: dict[int, int] = {}
    placed: list[_Life] = []
    for life in sorted(_lives(graph), key=lambda life: (-life.size_bytes, life.first, life.tensor)):
        offsets[life.tensor] = _lowest_free(life, [(offsets[other.tensor], other) for other in placed])
        placed.append(life)
    ends = (offsets[life.tensor] + life.size_bytes for life in placed)
    return MemoryPlan(offsets, max(ends, default=0))


def _lives(graph: Graph) -> list[_Life]:
    first = dict.fromkeys(graph.inputs, -1)
    last = dict(first)
    for step, operator in enumerate(graph.operators):
        for tensor in operator.inputs:
            if tensor in first:
                last[tensor] = step
            elif tensor >= 0 and not graph.tensors[tensor].content:
                raise ModelFormatError(f"{operator.name}: expected inputs that are written, found tensor {tensor}")
        for tensor in operator.outputs:
            first.setdefault(tensor, step)
            last[tensor] = step
    for tensor in graph.outputs:
        if tensor not in first:
            raise ModelFormatError(f"outputs: expected tensors that are written, found tensor {tensor}")
        last[tensor] = len(graph.operators)
    return [_Life(tensor, _rounded(graph.tensors[tensor].size_bytes), first[tensor], last[tensor]) for tensor in first]


def _lowest_free(life: _Life, placed: list[tuple[int, _Life]]) -> int:
    offset = 0
    for start, other in sorted(placed, key=lambda place: place[0]):
        if life.overlaps(other) and offset + life.size_bytes > start:
            offset = max(offset, start + other.size_bytes)
    return offset


def _rounded(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
