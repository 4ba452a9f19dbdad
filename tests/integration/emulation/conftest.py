"""One emulated core and one pool of TFLM workers for all tests of a process."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tinyml.workers import InferencePool

if TYPE_CHECKING:
    from device_sim.emulation.inference import EmulatedInference


@pytest.fixture(scope="session")
def pool() -> Iterator[InferencePool]:
    with InferencePool(workers=1) as shared:
        yield shared


@pytest.fixture(scope="session")
def emulated() -> "EmulatedInference":
    from device_sim.emulation.opening import open_emulated  # noqa: PLC0415 - needs the extra

    return open_emulated()
