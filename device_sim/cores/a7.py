"""The application core's part in a trial: it streams golden vectors to an M4 and judges the answers.

No flash of an M4 holds golden vectors; they come in intercore messages, as on the chip, see `cores.intercore`.
"""

from dataclasses import dataclass

from device_sim.cores.m4 import M4Core
from protocol.messages import Cause
from protocol.model import GoldenVectors


@dataclass(frozen=True, slots=True)
class GoldenOutcome:
    """How the golden vectors went.

    Attributes:
        passed: whether all did.
        cause: why not: golden-vectors, hang, crash or boot; None if they passed.
        detail: what was expected and found, at most 500 characters.
    """

    passed: bool
    cause: Cause | None
    detail: str


def run_golden(core: M4Core, vectors: GoldenVectors) -> GoldenOutcome:
    """Run golden vectors on a core.

    Args:
        core: runs the model on trial.
        vectors: verified by the update client: signed, and of the component that the card names.

    Raises:
        PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
    """
    raise NotImplementedError
