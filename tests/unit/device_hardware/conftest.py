"""A device builder in a folder of its own, and one inference pool for all."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.device_hardware.device_builder import DeviceBuilder
from tinyml.workers import InferencePool


@pytest.fixture
def builder(tmp_path: Path) -> DeviceBuilder:
    return DeviceBuilder(tmp_path)


@pytest.fixture(scope="session")
def pool() -> Iterator[InferencePool]:
    with InferencePool(workers=1) as shared:
        yield shared
