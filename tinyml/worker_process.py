"""What a worker process does: it holds TFLM interpreters and answers one frame with one frame.

Requests, by the header's `command`:
    load    digest, arena_bytes, session, heard; payload: the model
    invoke  digest, arena_bytes, session, heard, dtype, shape; payload: the input tensor
    arena   limit_bytes; payload: the model
Answers, by the header's `status`: ok, model-needed, rejected, failed, bad-input; all but ok carry a `text`.

`session` names the interpreter of a model that keeps state, and `heard` is how many inputs it has had: one that has had
another number is of no use any more.

The process prints nothing, takes no Ctrl-C, leaves no core file, and ends when its pipe does.
"""

import os
import resource
import signal
import tempfile
import time
from collections import OrderedDict
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from tflite_micro.python.tflite_micro import runtime

from tinyml.arena import search_smallest_arena
from tinyml.frames import decode_frame, encode_frame

INTERPRETERS_KEPT = 8  # a model's arena and its tensors: up to about 1 MiB each
SESSIONS_KEPT = 64  # interpreters of models that keep state: 0.2 MiB each for a wake word
GROWTH_BYTES = 512 * 1024 * 1024  # a damaged model may ask for any amount of memory
LOG_BYTES = 1024 * 1024  # all that a worker may write to a file
ORPHAN_SECONDS = 1.0  # how long after its deadline a hanging worker outlives a dead parent


class _Refusal(Exception):  # noqa: N818 - an answer on its way to the frame, never seen outside this module
    """Carries the status and text of an answer that is not ok."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


def serve(connection: Connection) -> None:
    """Answer requests until the other end of the pipe is gone."""
    _isolate()
    worker = _Worker(_capture_output())
    while True:
        try:
            connection.send_bytes(worker.answer(connection.recv_bytes()))
        except (EOFError, OSError):
            return


def _isolate() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LOG_BYTES, LOG_BYTES))
    limit = _data_bytes() + GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _data_bytes() -> int:
    """Private writable memory of this process, which is what RLIMIT_DATA counts."""
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - procfs, read once
        line = next(line for line in status if line.startswith("VmData:"))
    return int(line.split()[1]) * 1024


def _capture_output() -> int:
    """Point stdout and stderr, where TFLM explains itself, at an unnamed file; return its descriptor."""
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return 2


_Key = tuple[str, int, str]


@dataclass(slots=True)
class _Loaded:
    """An interpreter, the model's bytes, which it reads its weights from, and how many inputs it has had."""

    model: bytes
    interpreter: Any
    heard: int


def _key(header: dict[str, Any]) -> _Key:
    return header["digest"], header["arena_bytes"], header["session"]


class _Worker:
    def __init__(self, log: int) -> None:
        self._log = log
        self._shared: OrderedDict[_Key, _Loaded] = OrderedDict()
        self._own: OrderedDict[_Key, _Loaded] = OrderedDict()  # of sessions

    def answer(self, frame: bytes) -> bytes:
        """Answer one request; the kernel ends this process if it takes far longer than its deadline."""
        header, payload = decode_frame(frame)
        signal.setitimer(signal.ITIMER_REAL, header["deadline_seconds"] + ORPHAN_SECONDS)
        try:
            return self._commands[header["command"]](self, header, payload)
        except _Refusal as refusal:
            return encode_frame({"status": refusal.status, "text": str(refusal)})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _load(self, header: dict[str, Any], model: bytes) -> bytes:
        interpreters, kept = self._interpreters(header)
        interpreter = self._interpreter(model, header["arena_bytes"])
        interpreters[_key(header)] = _Loaded(model, interpreter, header["heard"])
        if len(interpreters) > kept:
            interpreters.popitem(last=False)
        return encode_frame({"status": "ok"})

    def _invoke(self, header: dict[str, Any], payload: bytes) -> bytes:
        interpreters, _ = self._interpreters(header)
        loaded = interpreters.pop(_key(header), None)
        if loaded is None or (header["session"] and loaded.heard != header["heard"]):
            raise _Refusal("model-needed", "the worker has not seen this model")
        tensor = np.frombuffer(payload, dtype=header["dtype"]).reshape(header["shape"])
        started = time.perf_counter()
        output = self._run(loaded.interpreter, tensor)
        seconds = time.perf_counter() - started
        loaded.heard += 1
        interpreters[_key(header)] = loaded  # the latest is the last to make room; one that failed is gone
        answer = {"status": "ok", "dtype": output.dtype.name, "shape": output.shape, "host_seconds": seconds}
        return encode_frame(answer, output.tobytes())

    def _interpreters(self, header: dict[str, Any]) -> tuple["OrderedDict[_Key, _Loaded]", int]:
        """Return the interpreters that a request is about, and how many of their kind are kept."""
        return (self._own, SESSIONS_KEPT) if header["session"] else (self._shared, INTERPRETERS_KEPT)

    def _arena(self, header: dict[str, Any], model: bytes) -> bytes:
        limit = header["limit_bytes"]
        found = search_smallest_arena(lambda size: self._loads(model, size), limit_bytes=limit)
        if found is None:
            self._interpreter(model, limit)  # says why
        return encode_frame({"status": "ok", "arena_bytes": found})

    def _loads(self, model: bytes, arena_bytes: int) -> bool:
        try:
            self._interpreter(model, arena_bytes)
        except _Refusal:
            return False
        return True

    def _interpreter(self, model: bytes, arena_bytes: int) -> Any:  # noqa: ANN401 - tflite_micro is untyped
        self._forget()
        try:
            return runtime.Interpreter.from_bytes(model, arena_size=arena_bytes)
        except Exception as error:
            raise _Refusal("rejected", self._explain(error)) from error

    def _run(self, interpreter: Any, tensor: np.ndarray) -> np.ndarray:  # noqa: ANN401 - tflite_micro is untyped
        self._forget()
        try:
            interpreter.set_input(tensor, 0)
        except (ValueError, IndexError) as error:
            raise _Refusal("bad-input", str(error)) from error
        try:
            interpreter.invoke()
            return np.asarray(interpreter.get_output(0))
        except Exception as error:
            raise _Refusal("failed", self._explain(error)) from error

    def _forget(self) -> None:
        os.ftruncate(self._log, 0)
        os.lseek(self._log, 0, os.SEEK_SET)

    def _explain(self, error: Exception) -> str:
        written = os.pread(self._log, 2000, 0).decode(errors="replace")
        return "; ".join([str(error) or type(error).__name__, *written.splitlines()])

    _commands = {"load": _load, "invoke": _invoke, "arena": _arena}  # noqa: RUF012 - never changed
