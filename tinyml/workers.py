"""A pool of long-lived worker processes that run models in TFLM.

A worker process is replaced when a model kills it or misses its deadline, which costs the one who asked the answer; one
that dies idle costs nobody's. A new one has lost its models and is sent each again when it is next asked for. Processes
come from multiprocessing's fork server with NumPy and TFLM preloaded, because starting an interpreter of Python for
each replacement would take a hundred times as long. The fork server itself ends with this process.

A model's interpreter is shared by all who ask with the same digest and arena. A model that keeps state from one
inference to the next has an interpreter for each session, in the one worker that the session's name chooses.
Interpreters are bounded and workers die: what a session heard last is kept here (`tinyml.sessions`) and told to a new
interpreter, so that another model's crash costs it nothing.
"""

import contextlib
import hashlib
import importlib.util
import multiprocessing
import platform
import select
import signal
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from types import ModuleType, TracebackType
from typing import Any, Self

import numpy as np

from tinyml.arena import ARENA_LIMIT_BYTES
from tinyml.errors import (
    InferenceCrashError,
    InferenceError,
    InferenceTimeoutError,
    InputMismatchError,
    InvokeFailedError,
    ModelRejectedError,
    PoolBusyError,
    PoolClosedError,
    RuntimeMissingError,
)
from tinyml.frames import FrameError, decode_frame, encode_frame
from tinyml.images import ModelImage
from tinyml.lending import Lending
from tinyml.sessions import NOTHING_HEARD, Heard, Sessions

_PRELOAD = ["numpy", "tflite_micro.python.tflite_micro.runtime"]
_REFUSALS: dict[str, type[InferenceError]] = {
    "rejected": ModelRejectedError,
    "failed": InvokeFailedError,
    "bad-input": InputMismatchError,
}
_TENSOR_TYPES = frozenset({"bool", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint32"})
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_start_lock = threading.Lock()  # starting a process touches sys.modules
_EXIT_SECONDS = 5.0  # a killed process that takes longer is stuck in the kernel


@dataclass(frozen=True, slots=True)
class InferenceResult:
    """A model's answer.

    Attributes:
        output: the first output tensor as the model gives it, not dequantised.
        host_seconds: time that setting the input, running and reading the output took in the worker.
    """

    output: np.ndarray
    host_seconds: float


def runtime_available() -> bool:
    """Whether the TFLM interpreter is installed."""
    return importlib.util.find_spec("tflite_micro") is not None


class InferencePool:
    """Runs models in worker processes; any number of threads may share it.

    Args:
        workers: number of processes; more than there are processor cores gain nothing.
        arena_limit_bytes: largest arena that a model may ask for.
        queue_seconds: longest wait for a free worker.

    Raises:
        RuntimeMissingError: tflite-micro is not installed.
    """

    def __init__(
        self, *, workers: int, arena_limit_bytes: int = ARENA_LIMIT_BYTES, queue_seconds: float = 30.0
    ) -> None:
        _require_runtime()
        self._arena_limit_bytes = arena_limit_bytes
        self._queue_seconds = queue_seconds
        self._closed = False
        self._sessions = Sessions()
        self._workers = [_Worker() for _ in range(workers)]
        self._free = Lending(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def invoke(self, model: ModelImage, input: np.ndarray, *, deadline_seconds: float) -> InferenceResult:  # noqa: A002
        """Run a model once.

        Args:
            model: the model; loaded into the worker when it has not seen it yet.
            input: the first input tensor, in the model's shape and type.
            deadline_seconds: longest time for loading and running, without the wait for a free worker.

        Raises:
            InputMismatchError: the input has another shape or type than the model's.
            ModelRejectedError: the model does not load; the message carries TFLM's.
            InvokeFailedError: the model loads but TFLM reports an error while it runs.
            InferenceTimeoutError: no answer before the deadline.
            InferenceCrashError: the model killed its worker.
            PoolBusyError: no worker became free in time.
            PoolClosedError: the pool is closed.
        """
        self._check_arena(model.arena_bytes)
        with self._worker(model.session) as worker:
            due = time.monotonic() + deadline_seconds
            heard = self._sessions.heard(model) if model.session else NOTHING_HEARD
            answer, payload = worker.ask(_question(model, input, heard.count), input.tobytes(), due=due)
            if answer["status"] == "model-needed":
                _load(worker, model, heard, due=due)
                answer, payload = worker.ask(_question(model, input, heard.count), input.tobytes(), due=due)
            _require_ok(answer, model.digest)
            if model.session:
                self._sessions.add(model, input)
            return _read_result(answer, payload)

    def smallest_arena(self, content: bytes, *, limit_bytes: int | None = None, deadline_seconds: float = 30.0) -> int:
        """Find the smallest arena that a model loads in.

        Args:
            content: the .tflite FlatBuffer.
            limit_bytes: largest arena to try; the pool's limit if it is not given.
            deadline_seconds: longest time for all tries together.

        Returns:
            Arena in bytes, a multiple of 16.

        Raises:
            ModelRejectedError: the model does not load at the limit either; the message carries TFLM's.
            InferenceTimeoutError, InferenceCrashError, PoolBusyError, PoolClosedError: as `invoke`.
        """
        limit = self._arena_limit_bytes if limit_bytes is None else limit_bytes
        self._check_arena(limit)
        with self._worker() as worker:
            due = time.monotonic() + deadline_seconds
            answer, _ = worker.ask({"command": "arena", "limit_bytes": limit}, content, due=due)
            _require_ok(answer, hashlib.sha256(content).hexdigest())
            return int(answer["arena_bytes"])

    def close(self) -> None:
        """End every worker process; calls that still run or wait raise PoolClosedError."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            self._free.take(None, worker)  # whoever uses one has lost its process
        for worker in self._workers:
            worker.stop(grace_seconds=0)
            self._free.give(worker)  # wakes up those who wait

    def _check_arena(self, arena_bytes: int) -> None:
        if not 0 < arena_bytes <= self._arena_limit_bytes:
            raise ModelRejectedError(f"arena: expected 1 to {self._arena_limit_bytes} bytes, found {arena_bytes}")

    @contextlib.contextmanager
    def _worker(self, session: str = "") -> Iterator["_Worker"]:
        """Lend out a worker whose process runs; a session's own."""
        wanted = self._workers[zlib.crc32(session.encode()) % len(self._workers)] if session else None
        worker = self._free.take(self._queue_seconds, wanted)
        if worker is None:
            raise PoolBusyError(f"expected a free worker in {self._queue_seconds:g} s, found none")
        try:
            worker.ensure_running()
            self._require_open()  # last: whom `close` has killed looks as if it had died
            yield worker
        except (InferenceTimeoutError, InferenceCrashError):
            self._require_open()
            raise
        finally:
            self._free.give(worker)

    def _require_open(self) -> None:
        if self._closed:
            raise PoolClosedError("the inference pool is closed")


class _Worker:
    """A worker's process and pipe, both replaced when the process is lost."""

    def __init__(self) -> None:
        self._start()

    def ask(self, header: dict[str, object], payload: bytes, *, due: float) -> tuple[dict[str, Any], bytes]:
        """Send a request and wait for its answer.

        Args:
            header: the request.
            payload: its tensor or model.
            due: when the answer must be there, on the monotonic clock.
        """
        left = max(due - time.monotonic(), 0.0)
        try:
            self._connection.send_bytes(encode_frame(header | {"deadline_seconds": left}, payload))
            if self._answers.poll(left * 1000):
                return _decode_answer(self._connection.recv_bytes(_MAX_ANSWER_BYTES))
        except (EOFError, OSError, FrameError) as error:
            self.stop(grace_seconds=_EXIT_SECONDS)
            if self._process.exitcode != -signal.SIGALRM:  # its own alarm, should this process be late to the deadline
                raise InferenceCrashError(f"expected an answer, found the worker dead: {self._end()}") from error
        except BaseException:  # Ctrl-C: the answer that is still to come must not meet the next question
            self.stop(grace_seconds=0)
            raise
        self.stop(grace_seconds=0)
        raise InferenceTimeoutError(f"expected an answer in {left:.2f} s, found none: worker killed")

    def kill(self) -> None:
        """Kill the process; its pipe stays open for whoever waits on it."""
        self._process.kill()

    def stop(self, *, grace_seconds: float) -> None:
        """Wait for the process to end by itself, then kill it; a process that crashed keeps its exit code."""
        self._process.join(grace_seconds)
        self._process.kill()
        self._process.join(_EXIT_SECONDS)
        self._connection.close()

    def ensure_running(self) -> None:
        """Start a new process if the old one was stopped, or died since its last answer."""
        if not self._connection.closed and self._answers.poll(0):  # nothing was asked: the other end is gone
            self.stop(grace_seconds=0)
        if self._connection.closed:
            self._start()

    def _start(self) -> None:
        self._connection, self._process = _start_process()
        self._answers = select.poll()  # Connection.poll would make one for each question
        self._answers.register(self._connection, select.POLLIN)

    def _end(self) -> str:
        code = self._process.exitcode
        if code is None:
            return "it does not end"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _question(model: ModelImage, tensor: np.ndarray, heard: int) -> dict[str, object]:
    asked = {"command": "invoke", "dtype": tensor.dtype.str, "shape": tensor.shape, "heard": heard}
    return model.key | asked


def _load(worker: _Worker, model: ModelImage, heard: Heard, *, due: float) -> None:
    """Send a worker a model, and let it hear what the session heard last."""
    first = heard.count - len(heard.latest)
    _require_ok(worker.ask(model.key | {"command": "load", "heard": first}, model.content, due=due)[0], model.digest)
    for number, tensor in enumerate(heard.latest, start=first):
        answer, _ = worker.ask(_question(model, tensor, number), tensor.tobytes(), due=due)
        _require_ok(answer, model.digest)


def _start_process() -> tuple[Connection, ForkServerProcess]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), name="tinyml-worker", daemon=True)
    with theirs, _start_lock, _main_module_hidden(), _interrupts_blocked():
        process.start()
    return ours, process


def _serve(connection: Connection) -> None:
    from tinyml.worker_process import serve  # noqa: PLC0415 - only a worker loads TFLM

    serve(connection)


@contextlib.contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep multiprocessing from importing the program's main script, a whole CLI, into every worker: 2 s each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let the fork server and its children inherit a mask that a terminal's Ctrl-C does not pass."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _require_runtime() -> None:
    if not runtime_available():
        raise RuntimeMissingError(
            "expected the package tflite-micro, which has wheels for CPython 3.10 to 3.14 on Linux x86-64 only; "
            f"found {platform.system()} {platform.machine()}, Python {platform.python_version()} without it"
        )


def _require_ok(answer: dict[str, Any], digest: str) -> None:
    if answer["status"] != "ok":
        refusal = _REFUSALS.get(answer["status"], InferenceCrashError)
        raise refusal(f"model {digest[:12]}: {answer.get('text', 'no reason given')}")


def _decode_answer(frame: bytes) -> tuple[dict[str, Any], bytes]:
    answer, payload = decode_frame(frame)
    if not isinstance(answer.get("status"), str):
        raise FrameError("answer: expected a status, found none")
    return answer, payload


def _read_result(answer: dict[str, Any], payload: bytes) -> InferenceResult:
    dtype = answer.get("dtype")
    if dtype not in _TENSOR_TYPES:
        raise InvokeFailedError(f"output: expected one of {', '.join(sorted(_TENSOR_TYPES))}, found {dtype}")
    try:
        output = np.frombuffer(payload, dtype=dtype).reshape(answer["shape"])
        return InferenceResult(output, float(answer["host_seconds"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InvokeFailedError(f"expected an output tensor, found: {error}") from error
