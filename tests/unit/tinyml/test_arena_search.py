"""The binary search for the smallest arena."""

import pytest

from tinyml.arena import ALIGNMENT_BYTES, SMALLEST_PROBE_BYTES, search_smallest_arena

_LIMIT = 1024 * 1024


@pytest.mark.parametrize("needed", [SMALLEST_PROBE_BYTES, 55_984, 168_368, 168_361, _LIMIT])
def test_search_finds_the_smallest_aligned_arena(needed: int) -> None:
    """The result is the need rounded up to 16 bytes."""
    found = search_smallest_arena(lambda size: size >= needed, limit_bytes=_LIMIT)
    assert found == needed + -needed % ALIGNMENT_BYTES


def test_search_never_tries_less_than_tflm_survives() -> None:
    """An arena below the floor crashes TFLM, so it is not tried even for a model that needs nothing."""
    tried: list[int] = []

    def loads(size: int) -> bool:
        tried.append(size)
        return True

    assert search_smallest_arena(loads, limit_bytes=_LIMIT) == SMALLEST_PROBE_BYTES
    assert min(tried) == SMALLEST_PROBE_BYTES


def test_search_gives_up_after_one_try_when_the_limit_is_too_small() -> None:
    """A model that does not load at the limit has no arena."""
    assert search_smallest_arena(lambda size: size > _LIMIT, limit_bytes=_LIMIT) is None
