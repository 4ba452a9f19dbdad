"""Models that listen, in the real interpreter: words are heard, and nobody's crash makes a core forget."""

from collections.abc import Iterator

import numpy as np
import pytest

from device_sim.cores.intercore import split
from device_sim.cores.kernels import WATCHDOG_MS
from device_sim.cores.m4 import M4Core
from tests.integration.sensing.listening_cores import RATE, WAKE, in_silence, keyword_core, spoken, wake_core
from tests.integration.tinyml.tinyml_models import alter, use_missing_buffer
from tinyml.errors import InferenceCrashError, InputMismatchError
from tinyml.fetch import fetch_model
from tinyml.worker_process import SESSIONS_KEPT
from tinyml.workers import InferencePool, ModelImage


@pytest.fixture(scope="module")
def pool() -> Iterator[InferencePool]:
    with InferencePool(workers=2) as shared:
        yield shared


def seconds(sound: np.ndarray) -> list[np.ndarray]:
    return list(sound.reshape(-1, RATE))


def test_core_hears_its_wake_word(pool: InferencePool) -> None:
    """Across the seam of two windows, because the model keeps what it heard before; nothing else wakes it."""
    core = wake_core(pool)
    scores = [core.infer(window).score for window in seconds(in_silence("okay-nabu", seconds=5, at=2.6))]
    assert max(scores[:2]) < 0.1
    assert max(scores[2:4]) > 0.9
    assert max(core.infer(window).score for window in seconds(in_silence("stop", seconds=3, at=1.2))) < 0.3


def test_stateful_model_takes_a_window_in_steps(pool: InferencePool) -> None:
    """33 steps of 30 ms in a second, and as much time on the core."""
    core = wake_core(pool)
    outcome = core.infer(in_silence("stop", seconds=1, at=0.2))
    assert 20 < outcome.m4_ms < WATCHDOG_MS
    assert core.latency_seconds * 1000 == outcome.m4_ms


def test_keyword_model_knows_a_word(pool: InferencePool) -> None:
    """The second in which it is spoken says which."""
    core = keyword_core(pool)
    outcome = core.infer(in_silence("stop", seconds=1, at=0.25))
    assert (outcome.label, outcome.score > 0.5) == ("stop", True)


def test_listening_devices_do_not_hear_one_another(pool: InferencePool) -> None:
    """Two devices with the same model: one hears the word, the other another word."""
    word, another = (seconds(in_silence(word, seconds=3, at=0.6)) for word in ("okay-nabu", "stop"))
    one, other = wake_core(pool, "one"), wake_core(pool, "other")
    scores = [(one.infer(a).score, other.infer(b).score) for a, b in zip(word, another, strict=True)]
    assert max(score for score, _ in scores) > 0.9
    assert max(score for _, score in scores) < 0.3


def _steps() -> list[np.ndarray]:
    chance = np.random.default_rng(7)
    return [chance.integers(-128, 128, WAKE.shape).astype(np.int8) for _ in range(100)]


def _image(session: str) -> ModelImage:
    return ModelImage(fetch_model("wake-hey-mycroft").read_bytes(), 40_000, session)


def _answers(pool: InferencePool, session: str, steps: list[np.ndarray]) -> list[int]:
    return [int(pool.invoke(_image(session), step, deadline_seconds=10).output[0, 0]) for step in steps]


def test_crash_of_another_model_costs_a_session_nothing() -> None:
    """Its interpreter dies with the worker, a new one hears again what it had heard, and the answers are the same."""
    steps = _steps()
    damaged = ModelImage(alter(fetch_model("image-classification").read_bytes(), use_missing_buffer), 100_000)
    with InferencePool(workers=1) as pool:
        undisturbed = _answers(pool, "quiet", steps)
        disturbed = []
        for number, step in enumerate(steps):
            if number % 30 == 10:
                with pytest.raises(InferenceCrashError):
                    pool.invoke(damaged, np.zeros((1, 32, 32, 3), np.int8), deadline_seconds=10)
            disturbed += _answers(pool, "disturbed", [step])
    assert disturbed == undisturbed
    assert len(set(undisturbed)) > 3


def test_more_sessions_than_a_worker_keeps_all_remember() -> None:
    """The interpreter that was not used for the longest makes room, and is brought back when it is asked again."""
    steps = _steps()[:8]
    with InferencePool(workers=1) as pool:
        expected = _answers(pool, "alone", steps)
        sessions = [f"device {number}" for number in range(SESSIONS_KEPT + 5)]
        found = {session: _answers(pool, session, steps[:4]) for session in sessions}
        assert all(found[session] + _answers(pool, session, steps[4:]) == expected for session in sessions)


def test_step_that_failed_is_not_heard() -> None:
    """An input of the wrong shape is refused, and the session goes on as if it had not been."""
    steps = _steps()[:20]
    with InferencePool(workers=1) as pool:
        expected = _answers(pool, "alone", steps)
        found = _answers(pool, "disturbed", steps[:10])
        with pytest.raises(InputMismatchError):
            pool.invoke(_image("disturbed"), np.zeros((1, 4, 40), np.int8), deadline_seconds=10)
        assert found + _answers(pool, "disturbed", steps[10:]) == expected


def test_recorded_words_are_what_the_tests_say() -> None:
    """Less than a second each, at the rate of the models."""
    for word in ("okay-nabu", "stop"):
        recording = spoken(word)
        assert recording.sample_rate_hz == RATE
        assert 0.4 * RATE < len(recording.samples) < RATE


def test_golden_vectors_meet_a_model_without_a_past(pool: InferencePool) -> None:
    """What the core has heard changes nothing of its answers to test inputs, and they nothing of what it hears."""
    steps = _steps()[:3]
    quiet, listening = wake_core(pool, "quiet"), wake_core(pool, "listening")
    sound = seconds(in_silence("okay-nabu", seconds=3, at=0.6))
    expected = [quiet.infer(window).score for window in sound]
    answers, scores = [], []
    for window in sound:
        answers.append([_answer(listening, step) for step in steps])
        scores.append(listening.infer(window).score)
    assert answers[0] == answers[1] == answers[2] == [_answer(quiet, step) for step in steps]
    assert scores == expected


def _answer(core: M4Core, step: np.ndarray) -> bytes | None:
    (message,) = split(step.tobytes(), "22222222-2222-4222-8222-222222222222")
    return core.receive(message)
