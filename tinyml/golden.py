"""Golden vectors: inputs with the answers that every model of a component must give.

The same judgement is used where a model is packed and where a core tries it; who runs the model is the caller's
choice, so a simulated core may put its faults between the model and the judgement.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from protocol.model import GoldenVector, InputContract
from tinyml.errors import InputMismatchError
from tinyml.flatbuffer import ModelFacts
from tinyml.images import lives
from tinyml.preprocess import dequantise
from tinyml.workers import InferencePool, ModelImage

Infer = Callable[[np.ndarray], np.ndarray]
"""Runs a model: input tensor in the model's shape and type → dequantised output values."""


@dataclass(frozen=True, slots=True)
class GoldenResult:
    """How one vector went.

    Attributes:
        name: the vector's name.
        max_difference: largest absolute difference of any output value; infinite if the answer has another length
            or holds a value that is not a number.
        tolerance: the largest that passes.
    """

    name: str
    max_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the answer is the expected one."""
        return self.max_difference <= self.tolerance


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How all vectors went."""

    results: tuple[GoldenResult, ...]

    @property
    def passed(self) -> bool:
        """Whether there was a vector and all passed."""
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def failures(self) -> tuple[GoldenResult, ...]:
        """The vectors that did not pass."""
        return tuple(result for result in self.results if not result.passed)


def pool_inference(pool: InferencePool, model: ModelImage, facts: ModelFacts, *, deadline_seconds: float) -> Infer:
    """Return what runs a model in a pool and dequantises its first output.

    Args:
        pool: runs the model.
        model: the model and its arena.
        facts: facts of the same model: the scale of its output, and whether it keeps state, which no vector inherits.
        deadline_seconds: longest time for one inference.
    """
    quantisation = facts.outputs[0].quantisation
    fresh = lives(model, facts, owner="golden vectors")

    def infer(tensor: np.ndarray) -> np.ndarray:
        return dequantise(pool.invoke(next(fresh), tensor, deadline_seconds=deadline_seconds).output, quantisation)

    return infer


def run_golden_vectors(vectors: Iterable[GoldenVector], contract: InputContract, *, infer: Infer) -> GoldenReport:
    """Run golden vectors and judge the answers.

    Args:
        vectors: inputs and expected answers.
        contract: shape and type of the input.
        infer: runs the model; what it raises is passed on.

    Raises:
        InputMismatchError: a vector's input is not as long as the contract says.
    """
    return GoldenReport(tuple(_judge(vector, infer(_input_tensor(vector, contract))) for vector in vectors))


def max_difference(expected: Iterable[float], found: np.ndarray) -> float:
    """Return the largest absolute difference, infinite where the two cannot be compared."""
    wanted, values = np.asarray(tuple(expected), np.float64), np.asarray(found, np.float64).ravel()
    if wanted.shape != values.shape or not np.isfinite(values).all():
        return float("inf")
    return float(np.abs(wanted - values).max(initial=0.0))


def _judge(vector: GoldenVector, found: np.ndarray) -> GoldenResult:
    return GoldenResult(vector.name, max_difference(vector.expected, found), vector.tolerance)


def _input_tensor(vector: GoldenVector, contract: InputContract) -> np.ndarray:
    try:
        return np.frombuffer(vector.input_bytes, contract.dtype).reshape(contract.shape)
    except ValueError as error:
        raise InputMismatchError(
            f"golden vector {vector.name}: expected {contract.dtype} of shape {contract.shape}, "
            f"found {len(vector.input_bytes)} bytes"
        ) from error
