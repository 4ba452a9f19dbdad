"""A model as it is run: its content, its arena, and whose interpreter it is."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tinyml.flatbuffer import ModelFacts
from tinyml.operators import stateful_operators


@dataclass(frozen=True, slots=True)
class ModelImage:
    """A model and the arena that it gets.

    Attributes:
        content: the .tflite FlatBuffer.
        arena_bytes: size of the tensor arena.
        session: names the interpreter of a model that keeps state, which nobody else may use; empty: any will do.
        digest: SHA-256 of the content, 64 hex digits.
    """

    content: bytes = field(repr=False)
    arena_bytes: int
    session: str = ""
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(self.content).hexdigest())

    @property
    def key(self) -> dict[str, object]:
        """What tells its interpreter apart."""
        return {"digest": self.digest, "arena_bytes": self.arena_bytes, "session": self.session}


def lives(image: ModelImage, facts: ModelFacts, *, owner: str) -> Iterator[ModelImage]:
    """Give a model without a past, again and again: one that keeps state gets another interpreter each time.

    Args:
        image: the model.
        facts: of the same model.
        owner: names whose interpreters they are; unique in a pool.
    """
    if not stateful_operators(facts.operators):
        return itertools.repeat(image)
    return (replace(image, session=f"{owner}/{number}") for number in itertools.count())
