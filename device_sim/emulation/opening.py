"""The way into the emulation, for those who may not have installed it."""

import importlib.util
from typing import TYPE_CHECKING

from device_sim.emulation.errors import EmulationMissingError
from tinyml.native.errors import CompilerMissingError
from tinyml.native.toolchain import require_toolchain

if TYPE_CHECKING:
    from device_sim.emulation.inference import EmulatedInference


def open_emulated() -> "EmulatedInference":
    """Return inference on an emulated core of the MT3620, to be used where an inference pool is.

    Raises:
        EmulationMissingError: the extra or the cross compiler is not installed; the message says how to get it.
    """
    if importlib.util.find_spec("unicorn") is None:
        raise EmulationMissingError(
            "emulated cores: expected the package unicorn, found none; install: pip install 'tinyfleet[emulation]'"
        )
    try:
        require_toolchain()
    except CompilerMissingError as error:
        raise EmulationMissingError(f"emulated cores: {error}") from error
    from device_sim.emulation.inference import EmulatedInference  # noqa: PLC0415 - needs the extra

    return EmulatedInference()
