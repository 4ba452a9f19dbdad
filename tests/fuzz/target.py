"""What a fuzzer feeds: something that reads unverified bytes, and the errors that it may answer with."""

from collections.abc import Callable
from dataclasses import dataclass

from device_sim.hardware.root_of_trust import seeded_identity

SIGNER = seeded_identity(b"fuzz")  # the same in every run, so that what was found can be fed again
KEY = SIGNER.public_key


@dataclass(frozen=True, slots=True)
class Target:
    """One reader of unverified bytes.

    Attributes:
        name: of the target, and of its folder below build/fuzz.
        consume: reads the bytes; any error but those of `errors` is a finding.
        errors: bases of the errors that say what is wrong with the bytes.
        seeds: what the fuzzer starts from.
    """

    name: str
    consume: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: tuple[bytes, ...]

    def feed(self, unverified: bytes) -> bool:
        """Have bytes read; return whether they were taken."""
        try:
            self.consume(unverified)
        except self.errors:
            return False
        return True
