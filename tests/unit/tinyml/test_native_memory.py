"""The arena's plan: tensors that live at the same time never share a byte."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyml.errors import ModelFormatError
from tinyml.native.errors import UnsupportedOperatorError
from tinyml.native.graph import Graph, Operator, Options, Tensor
from tinyml.native.memory import ALIGNMENT_BYTES, plan_memory


def _tensor(length: int, *, content: bytes = b"", dtype: str = "int8") -> Tensor:
    return Tensor((length,), dtype, content, (), ())


def _operator(inputs: tuple[int, ...], output: int) -> Operator:
    return Operator("ADD", inputs, (output,), Options())


@st.composite
def _graphs(draw: st.DrawFn) -> Graph:
    """A chain of operators, each of which reads any tensors that are already there."""
    count = draw(st.integers(1, 12))
    tensors = [_tensor(draw(st.integers(0, 300))) for _ in range(count + 1)]
    operators = [
        _operator(tuple(draw(st.lists(st.integers(0, step), min_size=1, max_size=3))), step + 1)
        for step in range(count)
    ]
    return Graph(tuple(tensors), tuple(operators), (0,), (count,))


def _life(graph: Graph, tensor: int) -> set[int]:
    """The steps that a tensor must survive, from the one that writes it on."""
    written = tensor - 1
    read = [step for step, operator in enumerate(graph.operators) if tensor in operator.inputs]
    last = len(graph.operators) if tensor in graph.outputs else max([written, *read])
    return set(range(written, last + 1))


@given(_graphs())
def test_tensors_that_live_together_lie_apart(graph: Graph) -> None:
    """For any two with a step in common, the bytes of one are not the other's; all lie in the arena, aligned."""
    plan = plan_memory(graph)
    for first, second in combinations(plan.offsets, 2):
        if _life(graph, first) & _life(graph, second):
            a, b = plan.offsets[first], plan.offsets[second]
            assert a + graph.tensors[first].elements <= b or b + graph.tensors[second].elements <= a
    for tensor, offset in plan.offsets.items():
        assert offset % ALIGNMENT_BYTES == 0
        assert offset + graph.tensors[tensor].elements <= plan.arena_bytes


def test_memory_is_used_again() -> None:
    """In a chain, only neighbours live together."""
    tensors = tuple(_tensor(160) for _ in range(5))
    chain = Graph(tensors, tuple(_operator((step,), step + 1) for step in range(4)), (0,), (4,))
    assert plan_memory(chain).arena_bytes == 320


def test_stored_tensors_take_no_memory() -> None:
    """Weights stay in flash."""
    graph = Graph((_tensor(16), _tensor(16, content=bytes(16)), _tensor(16)), (_operator((0, 1), 2),), (0,), (2,))
    assert set(plan_memory(graph).offsets) == {0, 2}


def test_tensor_read_before_it_is_written_is_refused() -> None:
    """A damaged order of operators would compute with what the last inference left."""
    tensors = tuple(_tensor(16) for _ in range(3))
    with pytest.raises(ModelFormatError, match="ADD: expected inputs that are written, found tensor 2"):
        plan_memory(Graph(tensors, (_operator((2,), 1), _operator((0,), 2)), (0,), (1,)))


def test_output_that_nothing_writes_is_refused() -> None:
    """It has no place in the arena."""
    with pytest.raises(ModelFormatError, match="outputs: expected tensors that are written, found tensor 1"):
        plan_memory(Graph((_tensor(16), _tensor(16)), (), (0,), (1,)))


def test_type_without_kernels_is_named() -> None:
    """Only float32, int32 and int8 have a size here."""
    with pytest.raises(UnsupportedOperatorError, match="tensor: expected float32, int32, int8, found type 7"):
        plan_memory(Graph((_tensor(16, dtype="type 7"), _tensor(1)), (_operator((0,), 1),), (0,), (1,)))
