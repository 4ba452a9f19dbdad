"""The demo's processes: ended in order, reaped, and none left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cli.demo_processes import Command, Processes, StopRequest
from service.cli.errors import InterruptedDemoError, StepError

SLEEPER = """
    import pathlib, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pathlib.Path("pids.new").write_text(f"{__import__('os').getpid()} {child.pid}")
    pathlib.Path("pids.new").rename("pids")
    time.sleep(600)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of Python modules that the processes run in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sleeper.py").write_text(textwrap.dedent(SLEEPER))
    (tmp_path / "fails.py").write_text("raise SystemExit('expected x, found y')")
    (tmp_path / "says.py").write_text("import sys; print(sys.argv[1])")
    return tmp_path


@pytest.fixture
def processes(modules: Path) -> Iterator[Processes]:
    """Processes that stop at the end of the test."""
    stop = StopRequest()
    running = Processes(modules, os.environ, stop=stop)
    with stop.listening():
        yield running
        running.stop_all()


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_for(path: Path) -> list[int]:
    while not path.exists():
        time.sleep(0.01)
    return [int(pid) for pid in path.read_text().split()]


def _wait_until_gone(pids: list[int]) -> None:
    while any(_is_alive(pid) for pid in pids):
        time.sleep(0.01)


def _nothing() -> None:
    pass


def test_sequences_run_to_their_end_and_leave_logs(processes: Processes, modules: Path) -> None:
    """Every command of every sequence runs; what it said is in a log of its own."""
    processes.run(
        [Command("says", ("one",)), Command("says", ("two",))], [Command("says", ("three",))], on_wait=_nothing
    )
    logs = {path.name.partition("-")[2]: path.read_text() for path in modules.glob("*.log")}
    assert logs == {"one.log": "one\n", "two.log": "two\n", "three.log": "three\n"}


def test_failed_command_ends_its_sequence(processes: Processes, modules: Path) -> None:
    """What depends on a failed command is not run."""
    with pytest.raises(StepError, match="expected exit code 0, found 1"):
        processes.run([Command("fails", ()), Command("says", ("two",))], on_wait=_nothing)
    assert not list(modules.glob("*two*"))


def test_failed_command_is_quoted(processes: Processes) -> None:
    """A failed command's message says why."""
    with pytest.raises(StepError, match="found 1: expected x, found y"):
        processes.run([Command("fails", ())], on_wait=_nothing)


def test_ended_service_is_noticed(processes: Processes) -> None:
    """A process that should keep running and does not is an error with the end of its log."""
    child = processes.start("fails", ["fails"])
    while not child.has_ended:
        time.sleep(0.01)
    with pytest.raises(StepError, match=r"expected it to keep running.*found y"):
        processes.check()


def test_stopping_takes_the_whole_group(processes: Processes, modules: Path) -> None:
    """What a stopped process had started is gone too."""
    processes.start("sleeper", ["sleeper"])
    pids = _wait_for(modules / "pids")
    processes.stop_all()
    _wait_until_gone(pids)


def test_interrupt_ends_a_wait(processes: Processes, modules: Path) -> None:
    """Ctrl-C is noticed while a command runs, and nothing of it stays."""
    with pytest.raises(InterruptedDemoError, match="stopped"):
        processes.run(
            [Command("sleeper", ())],
            on_wait=lambda: os.kill(os.getpid(), signal.SIGINT) if (modules / "pids").exists() else None,
        )
    processes.stop_all()
    _wait_until_gone(_wait_for(modules / "pids"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_killed_demo_leaves_no_process(modules: Path) -> None:
    """After kill -9 of the demo the kernel ends what it had started."""
    script = textwrap.dedent("""
        import os, pathlib, time
        from service.cli.demo_processes import Processes, StopRequest
        Processes(pathlib.Path(), os.environ, stop=StopRequest()).start("sleeper", ["sleeper"])
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", script]) as demo:
        leader, _ = _wait_for(modules / "pids")
        demo.kill()
    _wait_until_gone([leader])
    os.kill(_wait_for(modules / "pids")[1], signal.SIGKILL)
