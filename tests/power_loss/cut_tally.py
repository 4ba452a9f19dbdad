"""How many times the power was cut, and how often the device did not come back as it must."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class CutTally:
    cut_points: int = 0
    reasons: list[str] = field(default_factory=list)

    @property
    def bricks(self) -> int:
        return len(self.reasons)

    @contextmanager
    def cut(self, where: str) -> Iterator[None]:
        """Count a cut; whatever fails inside is a brick, and the campaign goes on."""
        self.cut_points += 1
        try:
            yield
        except Exception as error:  # noqa: BLE001 - any way not to come back counts
            self.reasons.append(f"{where}: {type(error).__name__}: {error}")
