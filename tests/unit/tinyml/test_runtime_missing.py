"""Without tflite-micro everything but inference works."""

import pytest

from tinyml.errors import RuntimeMissingError
from tinyml.workers import InferencePool


def test_pool_without_the_runtime_says_which_platforms_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package and its platforms."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(RuntimeMissingError, match=r"tflite-micro, which has wheels for CPython .* Linux x86-64"):
        InferencePool(workers=1)
