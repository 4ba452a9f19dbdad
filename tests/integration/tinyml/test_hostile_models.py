"""Damaged and endless models are contained, and the pool goes on working."""

import contextlib
import random
from typing import Any

import numpy as np
import pytest

from tests.integration.tinyml.tinyml_models import DemoModel, alter, endless_model, use_missing_buffer
from tinyml.errors import (
    InferenceCrashError,
    InferenceError,
    InferenceTimeoutError,
    InputMismatchError,
    ModelFormatError,
    ModelRejectedError,
)
from tinyml.flatbuffer import read_model_facts
from tinyml.workers import InferencePool, ModelImage

_ARENA_BYTES = 192 * 1024
_DEADLINE_SECONDS = 3.0


def _still_works(pool: InferencePool, model: DemoModel) -> bool:
    return pool.invoke(model.image, model.blank, deadline_seconds=10).output.size == len(model.labels)


def test_out_of_range_buffer_kills_only_its_worker(image_model: DemoModel, pool: InferencePool) -> None:
    """A buffer index out of range is a SIGSEGV in TFLM: it is reported, and the next model runs."""
    assert _still_works(pool, image_model)
    with pytest.raises(InferenceCrashError, match="SIGSEGV"):
        pool.invoke(
            ModelImage(alter(image_model.content, use_missing_buffer), _ARENA_BYTES),
            image_model.blank,
            deadline_seconds=_DEADLINE_SECONDS,
        )
    assert _still_works(pool, image_model)


def test_out_of_range_buffer_is_refused_before_it_runs(image_model: DemoModel) -> None:
    """Reading the facts finds the bad index without running anything."""
    with pytest.raises(ModelFormatError, match="buffer index: expected 0 to"):
        read_model_facts(alter(image_model.content, use_missing_buffer))


def test_weights_shorter_than_their_shape_are_refused_before_they_are_read(image_model: DemoModel) -> None:
    """TFLM would read past the end of the file."""

    def enlarge_filter(model: Any) -> None:
        graph = model.subgraphs[0]
        graph.tensors[graph.operators[0].inputs[1]].shape = [16, 3, 3, 300]

    with pytest.raises(ModelFormatError, match=r"weights: expected 43200 bytes for int8 .* found 432"):
        read_model_facts(alter(image_model.content, enlarge_filter))


def test_worker_cannot_take_all_memory(image_model: DemoModel) -> None:
    """An arena beyond what a worker may grow is refused, and the worker lives on."""
    with InferencePool(workers=1, arena_limit_bytes=2**31) as pool:
        with pytest.raises(ModelRejectedError, match="bad_alloc"):
            pool.invoke(ModelImage(image_model.content, 2**30), image_model.blank, deadline_seconds=_DEADLINE_SECONDS)
        assert _still_works(pool, image_model)


def test_endless_model_is_killed_at_its_deadline(image_model: DemoModel, pool: InferencePool) -> None:
    """A model that never answers costs its deadline; the worker is replaced."""
    endless = ModelImage(endless_model(), _ARENA_BYTES)
    with pytest.raises(InferenceTimeoutError, match="worker killed"):
        pool.invoke(endless, np.ones((1,), np.float32), deadline_seconds=0.5)
    assert _still_works(pool, image_model)


def test_crash_during_arena_search_is_contained(image_model: DemoModel, pool: InferencePool) -> None:
    """The arena search runs in a worker too."""
    with pytest.raises(InferenceCrashError, match="SIGSEGV"):
        pool.smallest_arena(alter(image_model.content, use_missing_buffer))
    assert _still_works(pool, image_model)


def test_operator_that_tflm_lacks_is_named(image_model: DemoModel, pool: InferencePool) -> None:
    """An operator without a kernel is refused in TFLM's words."""

    def use_topk(model: Any) -> None:
        model.operatorCodes[0].builtinCode = 48
        model.operatorCodes[0].deprecatedBuiltinCode = 48

    with pytest.raises(ModelRejectedError, match="TOPK_V2"):
        pool.invoke(
            ModelImage(alter(image_model.content, use_topk), _ARENA_BYTES),
            image_model.blank,
            deadline_seconds=_DEADLINE_SECONDS,
        )


def test_input_of_wrong_shape_or_type_is_refused(demo_model: DemoModel, pool: InferencePool) -> None:
    """The message names what TFLM expects."""
    with pytest.raises(InputMismatchError, match="expected"):
        pool.invoke(demo_model.image, demo_model.blank[:, :5], deadline_seconds=_DEADLINE_SECONDS)
    with pytest.raises(InputMismatchError, match="FLOAT64"):
        pool.invoke(demo_model.image, demo_model.blank.astype(np.float64), deadline_seconds=_DEADLINE_SECONDS)


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_never_reach_the_parent(demo_model: DemoModel, pool: InferencePool, seed: int) -> None:
    """Whatever random damage does to a worker, the caller sees an answer or one of our errors."""
    damaged = _flip(demo_model.content, random.Random(seed), flips=64)  # noqa: S311 - seeded damage
    with contextlib.suppress(InferenceError):
        pool.invoke(ModelImage(damaged, _ARENA_BYTES), demo_model.blank, deadline_seconds=_DEADLINE_SECONDS)
    assert _still_works(pool, demo_model)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.1, 0.5, 0.99])
def test_truncated_model_is_refused(demo_model: DemoModel, pool: InferencePool, share: float) -> None:
    """A file cut short is rejected or crashes its worker, never more."""
    cut = demo_model.content[: int(len(demo_model.content) * share)]
    with pytest.raises((ModelRejectedError, InferenceCrashError)):
        pool.invoke(ModelImage(cut, _ARENA_BYTES), demo_model.blank, deadline_seconds=_DEADLINE_SECONDS)
    assert _still_works(pool, demo_model)


@pytest.mark.parametrize("seed", range(200))
def test_facts_of_damaged_model_raise_only_our_error(image_model: DemoModel, seed: int) -> None:
    """Damage anywhere, in the tables above all, gives facts or ModelFormatError."""
    chance = random.Random(seed)  # noqa: S311 - seeded damage
    damaged = _flip(image_model.content, chance, flips=chance.choice([1, 8, 64]), last=20_000 if seed % 2 else None)
    with contextlib.suppress(ModelFormatError):
        read_model_facts(damaged)


@pytest.mark.parametrize("length", [0, 7, 8, 64, 1000, 50_000])
def test_facts_of_truncated_model_are_refused(demo_model: DemoModel, length: int) -> None:
    """A truncated file is not judged by the part that is there."""
    with pytest.raises(ModelFormatError):
        read_model_facts(demo_model.content[:length])


def _flip(content: bytes, chance: random.Random, *, flips: int, last: int | None = None) -> bytes:
    """Flip random bits, in the last bytes only if so asked: flatbuffers puts its tables there."""
    damaged = bytearray(content)
    first = len(damaged) - last if last else 0
    for _ in range(flips):
        damaged[chance.randrange(first, len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)
