"""The application core's part in a trial: it streams golden vectors to an M4 and judges the answers.

No flash of an M4 holds golden vectors; they come in intercore messages through the rings of a connection, as on the
chip, and so do the answers: see `cores.intercore`. Each vector is an inference of the model on
trial and takes as long.
"""

from dataclasses import dataclass

import numpy as np

from device_sim.cores.intercore import Connection, connect, data_of, split, traffic_seconds
from device_sim.cores.kernels import busy_seconds
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
        seconds: of device time that the core was busy with them.
    """

    passed: bool
    cause: Cause | None
    detail: str
    seconds: float


def run_golden(core: M4Core, vectors: GoldenVectors, *, connection: Connection | None = None) -> GoldenOutcome:
    """Run golden vectors on a core.

    Args:
        core: runs the model on trial.
        vectors: verified by the update client: signed, and of the component that the card names.
        connection: between the application and the core's runtime; None: one that their manifests allow.

    Raises:
        CoreStoppedError: the core runs no model.
        PoolBusyError, PoolClosedError: the host, not the core, gave no answer.
    """
    rings = connection or connect(vectors.component_id, core.component_id)
    seconds = 0.0
    for vector in vectors.vectors:
        latency = core.latency_seconds
        seconds += traffic_seconds(len(vector.input_bytes))
        try:
            failure = _judge(vector, _ask(core, vector, rings))
        except CoreFaultError as error:
            seconds += busy_seconds(latency, error.cause)
            return _failed(error.cause, f"golden vector {vector.name}: {error}", seconds=seconds)
        except (IntercoreMessageError, InputMismatchError) as error:
            failure = f"golden vector {vector.name}: {error}"
        seconds += latency
        if failure:
            return _failed(Cause.GOLDEN_VECTORS, failure, seconds=seconds)
    detail = f"{len(vectors.vectors)} golden vectors passed"
    return GoldenOutcome(passed=True, cause=None, detail=detail, seconds=seconds)


def _ask(core: M4Core, vector: GoldenVector, rings: Connection) -> bytes | None:
    """Send one input; return the answer after its last message, or None if the model wants more or less."""
    rings.to_core.clear()
    rings.to_application.clear()
    answers = []
    for message in split(vector.input_bytes, rings.application.component_id):
        rings.to_core.write(message)
        answers.append(b"".join(data_of(answer) for answer in core.serve(rings)))
    return answers[-1] if answers and answers[-1] and not any(answers[:-1]) else None


def _judge(vector: GoldenVector, reply: bytes | None) -> str:
    if reply is None:
        return f"golden vector {vector.name}: expected one answer after the last message, found another"
    found = max_difference(vector.expected, np.frombuffer(reply, _REPLY_TYPE))
    if found <= vector.tolerance:
        return ""
    return f"golden vector {vector.name}: expected a difference of at most {vector.tolerance:g}, found {found:g}"


def _failed(cause: Cause, detail: str, *, seconds: float) -> GoldenOutcome:
    return GoldenOutcome(passed=False, cause=cause, detail=detail[:_MAX_DETAIL], seconds=seconds)
