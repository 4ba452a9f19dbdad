"""Our list of TFLM's operators against the installed interpreter."""

import pytest
import tflite  # type: ignore[import-untyped] # the package has no annotations

from tests.integration.tinyml.tinyml_models import one_operator_model
from tinyml.errors import InferenceCrashError, ModelRejectedError
from tinyml.flatbuffer import read_model_facts
from tinyml.operators import STATEFUL_OPERATORS, TFLM_OPERATORS
from tinyml.workers import InferencePool

_BUILTIN = {
    number: name for number, name in tflite.utils.BUILTIN_OPCODE2NAME.items() if name not in ("CUSTOM", "DELEGATE")
}
_CUSTOM = sorted(name.removeprefix("CUSTOM:") for name in TFLM_OPERATORS if name.startswith("CUSTOM:"))


def _is_known(pool: InferencePool, model: bytes) -> bool:
    """Ask TFLM; a known operator may still refuse our made-up tensors, or crash on them."""
    try:
        pool.smallest_arena(model)
    except InferenceCrashError:
        return True
    except ModelRejectedError as error:
        return "Didn't find op" not in str(error) and "Failed to get registration" not in str(error)
    return True


def test_list_has_exactly_the_builtin_operators_of_the_interpreter(pool: InferencePool) -> None:
    """Every operator of the schema is asked for."""
    known = {name for number, name in _BUILTIN.items() if _is_known(pool, one_operator_model(number))}
    assert known == {name for name in TFLM_OPERATORS if not name.startswith("CUSTOM:")}


@pytest.mark.parametrize("name", _CUSTOM)
def test_listed_custom_operator_is_known(pool: InferencePool, name: str) -> None:
    """Every custom operator of the list is registered under that name."""
    model = one_operator_model(tflite.BuiltinOperator.CUSTOM, name)
    assert read_model_facts(model).operators == (f"CUSTOM:{name}",)
    assert _is_known(pool, model)


def test_unknown_custom_operator_is_refused(pool: InferencePool) -> None:
    """The question does tell known from unknown."""
    assert not _is_known(pool, one_operator_model(tflite.BuiltinOperator.CUSTOM, "Unheard"))


def test_stateful_operators_are_ones_that_tflm_has() -> None:
    """One that TFLM lacks keeps nothing."""
    assert STATEFUL_OPERATORS <= TFLM_OPERATORS
