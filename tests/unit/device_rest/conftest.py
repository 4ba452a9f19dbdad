"""A developer's device and the builder that makes its packages."""

from pathlib import Path

import pytest

from tests.unit.device_hardware.device_builder import DeviceBuilder
from tests.unit.device_rest.local_device import Local, local_device


@pytest.fixture
def made(tmp_path: Path) -> tuple[Local, DeviceBuilder]:
    return local_device(tmp_path)


@pytest.fixture
def local(made: tuple[Local, DeviceBuilder]) -> Local:
    return made[0]


@pytest.fixture
def builder(made: tuple[Local, DeviceBuilder]) -> DeviceBuilder:
    return made[1]
