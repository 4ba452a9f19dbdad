"""The fetched models and a pool to run them in."""

from collections.abc import Iterator

import pytest

from tests.integration.tinyml.tinyml_models import DemoModel, load_demo_model
from tinyml.workers import InferencePool


@pytest.fixture(scope="session")
def person_model() -> DemoModel:
    return load_demo_model("person-detection")


@pytest.fixture(scope="session")
def image_model() -> DemoModel:
    return load_demo_model("image-classification")


@pytest.fixture(scope="session", params=["person-detection", "image-classification"])
def demo_model(request: pytest.FixtureRequest) -> DemoModel:
    return load_demo_model(request.param)


@pytest.fixture(scope="session")
def pool() -> Iterator[InferencePool]:
    with InferencePool(workers=1) as shared:
        yield shared
