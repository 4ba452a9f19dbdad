"""Worker processes: replaced when lost, shared by threads, and never left behind."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.integration.tinyml.tinyml_models import DemoModel, endless_model
from tinyml.errors import InferenceCrashError, InferenceTimeoutError, ModelRejectedError, PoolBusyError, PoolClosedError
from tinyml.workers import InferencePool, ModelImage

_ROOT = Path(__file__).parents[3]
_WAIT_SECONDS = 40.0
_START_TICKS = 150  # more than the fork server spends on its imports: only a hanging model gets there


def test_worker_killed_idle_costs_no_answer(image_model: DemoModel) -> None:
    """The next call finds it dead and has a new worker, which is sent the model again."""
    with InferencePool(workers=1) as pool:
        first = pool.invoke(image_model.image, image_model.blank, deadline_seconds=10)
        killed = _pid(pool)
        os.kill(killed, signal.SIGKILL)
        _until(lambda: not _alive(killed))
        second = pool.invoke(image_model.image, image_model.blank, deadline_seconds=10)
        assert np.array_equal(first.output, second.output)
        assert _pid(pool) != killed


def test_worker_killed_at_work_costs_that_answer_alone(image_model: DemoModel) -> None:
    """Who asked hears of the crash; who waits for the same worker meanwhile gets his answer from a new one."""
    with InferencePool(workers=1) as pool, ThreadPoolExecutor(2) as threads:
        running = threads.submit(_run_endless, pool, 600.0)
        _until(lambda: _cpu_ticks(_pid(pool)) > _START_TICKS)
        waiting = threads.submit(pool.invoke, image_model.image, image_model.blank, deadline_seconds=60)
        os.kill(_pid(pool), signal.SIGKILL)
        with pytest.raises(InferenceCrashError, match="SIGKILL"):
            running.result()
        assert waiting.result().output.size == 10


def test_stopped_worker_counts_as_hanging(image_model: DemoModel) -> None:
    """A worker that the kernel does not run misses its deadline and is replaced."""
    with InferencePool(workers=1) as pool:
        os.kill(_pid(pool), signal.SIGSTOP)
        with pytest.raises(InferenceTimeoutError, match="worker killed"):
            pool.invoke(image_model.image, image_model.blank, deadline_seconds=0.2)
        assert pool.invoke(image_model.image, image_model.blank, deadline_seconds=10).output.size == 10


def test_many_threads_share_two_workers(person_model: DemoModel, image_model: DemoModel) -> None:
    """Every thread gets the answer to its own question."""
    with InferencePool(workers=2) as pool, ThreadPoolExecutor(16) as threads:
        models = [person_model, image_model] * 24
        results = list(threads.map(lambda m: pool.invoke(m.image, m.blank, deadline_seconds=30), models))
    for model, result in zip(models, results, strict=True):
        assert result.output.size == len(model.labels)


def test_more_models_than_a_worker_keeps_still_run(image_model: DemoModel, pool: InferencePool) -> None:
    """A model that a worker has dropped is sent again."""
    images = [ModelImage(image_model.content, image_model.arena_bytes + 16 * extra) for extra in range(10)]
    for image in images + images:
        assert pool.invoke(image, image_model.blank, deadline_seconds=10).output.size == 10


def test_wait_for_a_free_worker_is_bounded(image_model: DemoModel) -> None:
    """With its only worker busy, the pool says so instead of waiting on."""
    with InferencePool(workers=1, queue_seconds=0.05) as pool, ThreadPoolExecutor(1) as threads:
        busy = threads.submit(_run_endless, pool, 3.0)
        _until(lambda: pool._free.none_left)
        with pytest.raises(PoolBusyError, match="expected a free worker"):
            pool.invoke(image_model.image, image_model.blank, deadline_seconds=10)
        with pytest.raises(InferenceTimeoutError):
            busy.result()


def test_closing_ends_a_call_that_still_runs() -> None:
    """Who closes the pool does not wait for a model that hangs."""
    with ThreadPoolExecutor(1) as threads:
        pool = InferencePool(workers=1)
        pid = _pid(pool)
        running = threads.submit(_run_endless, pool, 600.0)
        _until(lambda: pool._free.none_left)
        pool.close()
        with pytest.raises(PoolClosedError):
            running.result()
    assert not _alive(pid)


def test_interrupted_call_does_not_leave_its_answer_to_the_next(
    image_model: DemoModel, pool: InferencePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while an answer is awaited; the next caller gets its own answer, not that one."""
    expected = pool.invoke(image_model.image, image_model.blank, deadline_seconds=10).output
    worker = pool._workers[0]
    with monkeypatch.context() as patched:
        patched.setattr(type(worker._connection), "recv_bytes", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            pool.invoke(image_model.image, image_model.blank + 7, deadline_seconds=10)
    found = pool.invoke(image_model.image, image_model.blank, deadline_seconds=10).output
    assert np.array_equal(found, expected)


def test_workers_write_nothing_to_the_terminal(image_model: DemoModel, capfd: pytest.CaptureFixture[str]) -> None:
    """What TFLM has to say is in the error, not on stdout or stderr."""
    with InferencePool(workers=1) as pool, pytest.raises(ModelRejectedError, match="missing"):
        pool.smallest_arena(image_model.content, limit_bytes=16 * 1024)
    assert capfd.readouterr() == ("", "")


def test_closed_pool_refuses_and_closes_again(image_model: DemoModel) -> None:
    """Closing twice is harmless; using a closed pool is refused."""
    pool = InferencePool(workers=1)
    pool.close()
    pool.close()
    with pytest.raises(PoolClosedError, match="closed"):
        pool.invoke(image_model.image, image_model.blank, deadline_seconds=10)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_no_process_outlives_its_parent(tmp_path: Path, sent: signal.Signals, *, busy: bool) -> None:
    """However the parent ends, its workers and their fork server end too, even while a model hangs."""
    model = tmp_path / "endless.tflite"
    model.write_bytes(endless_model())
    parent = _start_parent(model, busy=busy)
    try:
        pids = _descendants(parent.pid)
        assert len(pids) >= 3  # fork server, resource tracker, worker
        if busy:
            _until(lambda: any(_cpu_ticks(pid) > _START_TICKS for pid in pids))
        # As a terminal does it: Ctrl-C reaches the whole process group.
        os.killpg(parent.pid, sent) if sent == signal.SIGINT else parent.send_signal(sent)
        _, errors = parent.communicate(timeout=_WAIT_SECONDS)
        _until(lambda: not any(_alive(pid) for pid in pids))
    finally:
        parent.kill()
    assert "tinyml-worker" not in errors


def test_workers_do_not_import_the_main_script(tmp_path: Path) -> None:
    """A program whose main script is costly to import does not pay for it in each worker."""
    script = tmp_path / "main_script.py"
    script.write_text(
        textwrap.dedent("""
        import pathlib, sys
        pathlib.Path(sys.argv[1]).open("a").write("imported\\n")
        from tinyml.workers import InferencePool
        with InferencePool(workers=2):
            pass
        """)
    )
    environment = os.environ | {"PYTHONPATH": str(_ROOT)}
    log = tmp_path / "log"
    subprocess.run([sys.executable, script, log], env=environment, check=True, timeout=60)
    assert log.read_text() == "imported\n"


def _run_endless(pool: InferencePool, deadline_seconds: float) -> None:
    pool.invoke(ModelImage(endless_model(), 64 * 1024), np.ones((1,), np.float32), deadline_seconds=deadline_seconds)


def _interrupt(*_: object) -> bool:
    raise KeyboardInterrupt


def _pid(pool: InferencePool) -> int:
    pid = pool._workers[0]._process.pid
    assert pid is not None
    return pid


_PARENT = """
import signal, sys, threading
import numpy as np
from tinyml.workers import InferencePool, ModelImage
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs without it
pool = InferencePool(workers=1)
print("ready", flush=True)
if sys.argv[2] == "busy":
    content = open(sys.argv[1], "rb").read()
    pool.invoke(ModelImage(content, 65536), np.ones((1,), np.float32), deadline_seconds=15)
threading.Event().wait()
"""


def _start_parent(model: Path, *, busy: bool) -> subprocess.Popen[str]:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, model, "busy" if busy else "idle"],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    return parent


def _descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [deeper for child in children for deeper in _descendants(child)]


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _cpu_ticks(pid: int) -> int:
    """User time of a process in hundredths of a second, of the worker itself: a fork starts at zero."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


def _until(condition: Callable[[], bool]) -> None:
    """Poll until a condition holds; a pid that is not ours offers nothing to wait on."""
    due = time.monotonic() + _WAIT_SECONDS
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < due, "the condition did not come true"
        pause.wait(0.01)
