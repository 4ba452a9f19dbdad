"""The application core's part in a trial: it streams golden vectors to an M4 and judges the answers.

No flash of an M4 holds golden vectors; they come in intercore messages, as on the chip, see `cores.intercore`.
"""

from dataclasses import dataclass

import numpy as np

from device_sim.cores.intercore import split
from device_sim.cores.m4 import M4Core
from device_sim.errors import CoreFaultError, IntercoreMessageError
from protocol.messages import Cause
from protocol.model import GoldenVector, GoldenVectors
from tinyml.errors import InputMismatchError
from tinyml.golden import max_difference

_REPLY_TYPE = "<f4"
_MAX_DETAIL = 500  # characters of an action report


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
        CoreStoppedError: the core runs no model.
        PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
    """
    for vector in vectors.vectors:
        try:
            failure = _judge(vector, _ask(core, vector, vectors.component_id))
        except CoreFaultError as error:
            return _failed(error.cause, f"golden vector {vector.name}: {error}")
        except (IntercoreMessageError, InputMismatchError) as error:
            failure = f"golden vector {vector.name}: {error}"
        if failure:
            return _failed(Cause.GOLDEN_VECTORS, failure)
    return GoldenOutcome(passed=True, cause=None, detail=f"{len(vectors.vectors)} golden vectors passed")


def _ask(core: M4Core, vector: GoldenVector, sender: str) -> bytes | None:
    """Send one input; return the reply to its last message, or None if the model wants more or less."""
    replies = [core.receive(message) for message in split(vector.input_bytes, sender)]
    return replies[-1] if replies and not any(replies[:-1]) else None


def _judge(vector: GoldenVector, reply: bytes | None) -> str:
    if reply is None:
        return f"golden vector {vector.name}: expected one answer after the last message, found another"
    found = max_difference(vector.expected, np.frombuffer(reply, _REPLY_TYPE))
    if found <= vector.tolerance:
        return ""
    return f"golden vector {vector.name}: expected a difference of at most {vector.tolerance:g}, found {found:g}"


def _failed(cause: Cause, detail: str) -> GoldenOutcome:
    return GoldenOutcome(passed=False, cause=cause, detail=detail[:_MAX_DETAIL])
