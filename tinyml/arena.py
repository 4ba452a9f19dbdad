"""The smallest tensor arena that a model loads in.

TFLM has no call that says it, so the search tries: an arena either holds the model's tensors or allocation fails.
The host's figure bounds the core's from above, because the interpreter's own structures hold 8-byte pointers here
and 4-byte pointers on a Cortex-M4.
"""

from collections.abc import Callable

ALIGNMENT_BYTES = 16  # TFLM's MicroArenaBufferAlignment()
# Below about 1 KiB TFLM dereferences null instead of reporting that its own structures do not fit.
SMALLEST_PROBE_BYTES = 2048
ARENA_LIMIT_BYTES = 4 * 1024 * 1024  # far above any core; more would only slow down the refusal


def search_smallest_arena(loads: Callable[[int], bool], *, limit_bytes: int) -> int | None:
    """Find the smallest multiple of 16 bytes for which `loads` holds, by binary search.

    Args:
        loads: whether the model loads in an arena of so many bytes; monotonic.
        limit_bytes: largest arena to try.

    Returns:
        Arena in bytes, at least `SMALLEST_PROBE_BYTES`, or None if the model does not load at the limit.
    """
    low, high = SMALLEST_PROBE_BYTES // ALIGNMENT_BYTES - 1, limit_bytes // ALIGNMENT_BYTES
    if not loads(high * ALIGNMENT_BYTES):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if loads(middle * ALIGNMENT_BYTES):
            high = middle
        else:
            low = middle
    return high * ALIGNMENT_BYTES
