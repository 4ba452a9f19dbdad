"""The C of one model: its arrays and tables, the arena, the order of calls, and what the program says of itself.

The same model gives the same text, byte for byte, on every machine. A small file may describe a large program, because
operators may share weights and C arrays do not: the program's size is bounded before any C is written.
"""

from dataclasses import dataclass, field

from protocol.geometry import FLASH_BYTES
from tinyml.errors import ModelFormatError
from tinyml.native.errors import OverBudgetError
from tinyml.native.graph import Graph, Tensor, read_graph
from tinyml.native.lowering import lower
from tinyml.native.memory import ALIGNMENT_BYTES, MemoryPlan, plan_memory

MAX_OPERATORS = 1024  # the demo's largest model has 33


@dataclass(frozen=True, slots=True)
class NativeSource:
    """Generated C.

    Attributes:
        text: a translation unit; firmware/ holds the others.
        arena_bytes: memory for tensors.
        weights_bytes: what the model stores for the operators that run.
    """

    text: str = field(repr=False)
    arena_bytes: int
    weights_bytes: int


def generate_source(content: bytes) -> NativeSource:
    """Write a model as C.

    Args:
        content: the .tflite FlatBuffer.

    Raises:
        ModelFormatError: no .tflite file that can be read, or its parts do not belong together.
        OverBudgetError: it stores more weights than there is flash.
        UnsupportedOperatorError: there is no kernel for one of its operators; the message names it.
    """
    graph = read_graph(content)
    weights_bytes = _require_bounded(graph)
    plan = plan_memory(graph)
    lowered = lower(graph, plan)
    parts = [
        '#include "kernels.h"\n#include "program.h"\n',
        f'static int8_t arena[{plan.arena_bytes}] __attribute__((aligned({ALIGNMENT_BYTES}), section(".arena")));\n',
        *(f"{declaration}\n" for declaration in lowered.declarations),
        _infer(lowered.calls),
        _facts(graph, plan),
    ]
    return NativeSource("\n".join(parts), plan.arena_bytes, weights_bytes)


def _require_bounded(graph: Graph) -> int:
    """Refuse a graph that no core could hold; return the bytes of the weights that its operators use."""
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        found = f"{len(graph.inputs)} and {len(graph.outputs)}"
        raise ModelFormatError(f"model: expected one input and one output, found {found}")
    if len(graph.operators) > MAX_OPERATORS:
        raise ModelFormatError(f"model: expected at most {MAX_OPERATORS} operators, found {len(graph.operators)}")
    if any(len(operator.outputs) != 1 for operator in graph.operators):
        raise ModelFormatError("model: expected operators with one output each, found another number")
    used = (index for operator in graph.operators for index in operator.inputs if index >= 0)
    weights_bytes = sum(len(graph.tensors[index].content) for index in used)
    if weights_bytes > FLASH_BYTES:
        raise OverBudgetError(f"weights: expected at most {FLASH_BYTES:,} bytes of flash, found {weights_bytes:,}")
    return weights_bytes


def _infer(calls: tuple[str, ...]) -> str:
    body = "".join(f"  {call}\n" for call in calls)
    return f"void infer(void) {{\n{body}}}\n"


def _facts(graph: Graph, plan: MemoryPlan) -> str:
    fields = ["PROGRAM_MAGIC", "idle", *_end(graph, plan, graph.inputs[0]), *_end(graph, plan, graph.outputs[0])]
    values = ", ".join([*fields, str(plan.arena_bytes)])
    return f'__attribute__((section(".facts"), used)) static const struct program_facts facts = {{{values}}};\n'


def _end(graph: Graph, plan: MemoryPlan, index: int) -> tuple[str, str]:
    tensor: Tensor = graph.tensors[index]
    return f"arena + {plan.offsets[index]}", str(tensor.size_bytes)
