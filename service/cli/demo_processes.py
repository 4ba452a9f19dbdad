"""The processes that the demo starts. None outlives the demo, however it ends.

- Each has a process group of its own, so a Ctrl-C reaches the demo alone, which stops the others in order.
- The kernel sends them SIGTERM when the demo is killed (prctl PR_SET_PDEATHSIG; Linux).
- When a group's leader has ended, the rest of its group is killed before the leader is reaped: until then nobody
  else can have the group's number.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO

from service.cli.errors import InterruptedDemoError, StepError

GRACE_SECONDS = 15.0  # from SIGTERM to SIGKILL
POLL_SECONDS = 0.02
_PR_SET_PDEATHSIG = 1
_MESSAGE_CHARACTERS = 600
_END = object()


class StopRequest:
    """Becomes true with the first SIGINT, SIGTERM or SIGHUP; the demo looks at it wherever it waits."""

    def __init__(self) -> None:
        self._event = threading.Event()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals over for as long as processes may run."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, self._set) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond a request to stop.

        Raises:
            InterruptedDemoError: somebody asked to stop.
        """
        self._event.wait(seconds)
        self.check()

    def check(self) -> None:
        """Go on only if nobody asked to stop.

        Raises:
            InterruptedDemoError: somebody asked to stop.
        """
        if self._event.is_set():
            raise InterruptedDemoError("stopped before the demo was done; the same command goes on from here")

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self._event.set()


@dataclass(frozen=True, slots=True)
class Command:
    """A Python module's command, e.g. module "device_sim" with the words after it."""

    module: str
    words: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """Module and words."""
        return [self.module, *self.words]

    @property
    def name(self) -> str:
        """What it is called in logs: its first two words that are names."""
        return "-".join(word for word in self.words[:2] if word.isalpha())


@dataclass(frozen=True, slots=True)
class Child:
    """A running process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; it is not reaped by asking."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def finish(self) -> int:
        """Kill what is left of the group of an ended process, reap it, and return its exit code."""
        if self.process.returncode is None:
            _signal_group(self.process.pid, signal.SIGKILL)
        return self.process.wait()


class Processes:
    """Starts processes and stops all of them at the end.

    Args:
        logs: folder for what they write: `{name}.log`.
        environment: all that they find in theirs.
        stop: looked at while waiting.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str], *, stop: StopRequest) -> None:
        self._logs = logs
        self._environment = dict(environment)
        self._stop = stop
        self._running: list[Child] = []
        self._count = 0

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start a Python module's command that keeps running, e.g. ("service.cli.main", "serve")."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            child = Child(name, self._spawn(arguments, output), log)
        self._running.append(child)
        return child

    def run(self, *sequences: Iterable[Command], on_wait: Callable[[], None]) -> None:
        """Run sequences of commands side by side, each command to its end before the next of its sequence.

        Args:
            sequences: commands that depend on each other are in one sequence.
            on_wait: called again and again while they run.

        Raises:
            StepError: a command ended with another exit code than 0; quotes the end of its output.
            InterruptedDemoError: somebody asked to stop.
        """
        lanes = [self._in_order(sequence) for sequence in sequences]
        while lanes := [lane for lane in lanes if next(lane, _END) is not _END]:
            self._stop.pause(POLL_SECONDS)
            on_wait()

    def _in_order(self, commands: Iterable[Command]) -> Iterator[None]:
        for command in commands:
            self._count += 1
            log = self._logs / f"{self._count:02}-{command.name}.log"
            with log.open("wb") as output:
                child = Child(command.name, self._spawn(command.arguments, output), log)
            self._running.append(child)
            while not child.has_ended:
                yield
            self._running.remove(child)
            if (code := child.finish()) != 0:
                found = f"{code}: {_tail(log)}"
                raise StepError(f"{' '.join(command.arguments)}: expected exit code 0, found {found}")

    def check(self) -> None:
        """Look for processes that ended by themselves, and for a request to stop.

        Raises:
            StepError: a process that should keep running has ended.
            InterruptedDemoError: somebody asked to stop.
        """
        self._stop.check()
        for child in self._running:
            if child.has_ended:
                raise StepError(f"{child.name}: expected it to keep running, found its end: {_tail(child.log)}")

    def stop(self, child: Child) -> int:
        """Stop one process with SIGTERM, or with SIGKILL after a time of grace; return its exit code."""
        if not child.has_ended:
            child.process.terminate()
        _wait_until_ended(child, GRACE_SECONDS)
        if not child.has_ended:
            _signal_group(child.process.pid, signal.SIGKILL)
            _wait_until_ended(child, GRACE_SECONDS)
        if child in self._running:
            self._running.remove(child)
        return child.finish()

    def stop_all(self) -> None:
        """Stop everything, the last one first."""
        for child in reversed(self._running.copy()):
            self.stop(child)

    def start_detached(self, name: str, arguments: Sequence[str]) -> int:
        """Start a command that outlives the demo, and return its process id."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own modules
                _command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            ).pid

    def _spawn(self, arguments: Sequence[str], output: BinaryIO) -> subprocess.Popen[bytes]:
        self._stop.check()
        return subprocess.Popen(  # noqa: S603 - our own modules
            _command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=self._environment,
            process_group=0,
            preexec_fn=_death_with_parent(),  # noqa: PLW1509 - one system call between fork and exec
        )


def _command(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _death_with_parent() -> Callable[[], None] | None:
    """Return what a child does before it starts: ask for SIGTERM at its parent's death."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the call
            os._exit(1)

    return ask


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _wait_until_ended(child: Child, seconds: float) -> None:
    pause = threading.Event()
    for _ in range(round(seconds / POLL_SECONDS)):
        if child.has_ended:
            return
        pause.wait(POLL_SECONDS)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-_MESSAGE_CHARACTERS:] or "nothing in its log"
