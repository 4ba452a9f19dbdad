"""The rings between the A7 and an M4: bounded, in order, and only between applications that list each other."""

import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_sim.cores.intercore import (
    HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    Connection,
    ConnectionNotAllowedError,
    Endpoint,
    RingBuffer,
    RingFullError,
    connect,
    data_of,
    sender_of,
    split,
)
from device_sim.errors import CoreStoppedError, IntercoreMessageError
from protocol.geometry import Core
from tests.unit.device_hardware.device_builder import ColourInference, DeviceBuilder

APPLICATION, RUNTIME, STRANGER = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
MESSAGES = st.lists(st.binary(min_size=HEADER_BYTES + 1, max_size=MAX_MESSAGE_BYTES), max_size=60)


@given(messages=MESSAGES, turns=st.lists(st.booleans(), max_size=200))
def test_what_is_read_is_what_was_written_in_its_order(messages: list[bytes], turns: list[bool]) -> None:
    """However writing and reading take turns, around the end of the ring as well; a full ring loses nothing."""
    ring, waiting, found = RingBuffer(), list(messages), []
    for writes in turns:
        if writes and waiting:
            try:
                ring.write(waiting[0])
            except RingFullError:
                continue
            waiting.pop(0)
        elif (message := ring.read()) is not None:
            found.append(message)
    while (message := ring.read()) is not None:
        found.append(message)
    assert found == messages[: len(messages) - len(waiting)]


def test_ring_is_full_before_its_ends_meet() -> None:
    """Three of the longest messages fit, a fourth waits until one is read."""
    ring, longest = RingBuffer(), bytes(MAX_MESSAGE_BYTES)
    for _ in range(3):
        ring.write(longest)
    with pytest.raises(RingFullError, match="expected at most 912 bytes, found a block of 1056"):
        ring.write(longest)
    assert ring.read() == longest
    ring.write(longest)


@pytest.mark.parametrize("length", [0, HEADER_BYTES, MAX_MESSAGE_BYTES + 1])
def test_message_of_no_length_that_there_is_stays_outside(length: int) -> None:
    """1,040 bytes are the most."""
    with pytest.raises(IntercoreMessageError, match=f"expected 21 to 1040 bytes, found {length}"):
        RingBuffer().write(bytes(length))


def test_ring_that_a_core_spoiled_is_emptied_and_told() -> None:
    """Garbage in shared memory is not believed; what is written next arrives."""
    ring = RingBuffer()
    ring.write(bytes(100))
    ring._memory[:4] = b"\xff\xff\xff\xff"
    with pytest.raises(IntercoreMessageError, match="found 4294967295"):
        ring.read()
    assert ring.read() is None
    ring.write(b"m" * 50)
    assert ring.read() == b"m" * 50


def test_message_says_who_sent_it() -> None:
    """In the byte order of .NET."""
    (message,) = split(b"data", STRANGER)
    assert (sender_of(message), data_of(message)) == (STRANGER, b"data")
    with pytest.raises(IntercoreMessageError, match="found 3"):
        sender_of(b"abc")


@pytest.mark.parametrize(
    ("application", "runtime", "text"),
    [
        ({RUNTIME}, set(), f"component {RUNTIME}: expected {APPLICATION}"),
        (set(), {APPLICATION}, f"component {APPLICATION}: expected {RUNTIME}"),
        ({STRANGER}, {STRANGER}, "found 1 others"),
    ],
)
def test_connection_needs_both_manifests(application: set[str], runtime: set[str], text: str) -> None:
    """One side's word is not enough."""
    with pytest.raises(ConnectionNotAllowedError, match=text):
        Connection(Endpoint(APPLICATION, frozenset(application)), Endpoint(RUNTIME, frozenset(runtime)))


def test_core_answers_its_application_and_nobody_else(builder: DeviceBuilder) -> None:
    """An input through the ring, the answer through the other; a stranger's message is refused, the core goes on."""
    machine = builder.ready(pool=ColourInference())
    machine.boot()
    core = machine.cores[Core.M4_0]
    rings = connect(APPLICATION, core.component_id)
    (message,) = split(np.array([1, 5, 2], np.float32).tobytes(), APPLICATION)
    (strange,) = split(bytes(12), STRANGER)
    rings.to_core.write(strange)
    with pytest.raises(IntercoreMessageError, match=f"expected one of {APPLICATION}, found {STRANGER}"):
        list(core.serve(rings))
    rings.to_core.write(message)
    (answer,) = core.serve(rings)
    assert sender_of(answer) == core.component_id
    assert np.frombuffer(data_of(answer), "<f4").tolist() == [1, 5, 2]
    core.stop()
    with pytest.raises(CoreStoppedError, match="expected a runtime"):
        _ = core.component_id
