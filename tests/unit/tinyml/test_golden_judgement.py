"""How golden vectors judge an answer."""

import base64
import math

import numpy as np
import pytest

from protocol.model import GoldenVector, InputContract
from tinyml.errors import InputMismatchError
from tinyml.golden import GoldenReport, max_difference, run_golden_vectors

_CONTRACT = InputContract(shape=(1, 4), dtype="int8")


def _vector(name: str, content: bytes = b"\x01\x02\x03\xff") -> GoldenVector:
    return GoldenVector.model_validate(
        {"name": name, "input": base64.b64encode(content).decode(), "expected": (0.25, 0.75), "tolerance": 0.1}
    )


def test_model_is_given_the_vector_in_the_contracts_shape_and_type() -> None:
    """The bytes become an int8 tensor of the contract's shape."""
    seen = []

    def infer(tensor: np.ndarray) -> np.ndarray:
        seen.append(tensor)
        return np.array([[0.25, 0.75]])

    assert run_golden_vectors([_vector("a")], _CONTRACT, infer=infer).passed
    assert seen[0].dtype == np.int8
    assert seen[0].tolist() == [[1, 2, 3, -1]]


def test_report_says_which_vectors_fail() -> None:
    """Each vector is judged by itself."""
    answers = iter([np.array([0.25, 0.75]), np.array([0.5, 0.5])])
    report = run_golden_vectors([_vector("good"), _vector("bad")], _CONTRACT, infer=lambda _: next(answers))
    assert [result.passed for result in report.results] == [True, False]
    assert [result.name for result in report.failures] == ["bad"]
    assert report.failures[0].max_difference == 0.25


def test_no_vectors_pass_nothing() -> None:
    """A report without vectors is no success."""
    assert not GoldenReport(()).passed


@pytest.mark.parametrize("found", [[0.25], [0.25, math.nan], [0.25, math.inf], []])
def test_answer_that_cannot_be_compared_is_infinitely_far(found: list[float]) -> None:
    """A wrong length or a value that is not a number never passes."""
    assert max_difference((0.25, 0.75), np.array(found)) == math.inf


def test_vector_of_wrong_length_is_refused() -> None:
    """A vector that is not for this input is named."""
    with pytest.raises(InputMismatchError, match=r"golden vector short: expected int8 .* found 3 bytes"):
        run_golden_vectors([_vector("short", b"\0\0\0")], _CONTRACT, infer=lambda tensor: tensor)
