"""The audit log: every change, who made it, and what was there before and after. Append-only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from service.domain.errors import JsonValue
from service.domain.operator import Actor


@dataclass(frozen=True, slots=True)
class Change:
    """One change as a use case describes it.

    Attributes:
        action: what was done, `noun.verb`, e.g. `device.block`.
        subject_id: id of what was changed.
        before: the changed facts as they were; empty for what was created.
        after: the changed facts as they are; empty for what was removed.
    """

    action: str
    subject_id: str
    before: Mapping[str, JsonValue] = field(default_factory=dict)
    after: Mapping[str, JsonValue] = field(default_factory=dict)

    @property
    def detail(self) -> str:
        """What changed, in one line."""
        names = [name for name in {**self.before, **self.after} if self.before.get(name) != self.after.get(name)]
        return ", ".join(f"{name}: {self._step(name)}" for name in names)

    def _step(self, name: str) -> str:
        before, after = self.before.get(name), self.after.get(name)
        return str(after) if before is None else f"{before} → {after}"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """A change as it is stored.

    Attributes:
        entry_id: rises in commit order.
        actor: name of the operator, or `service`.
    """

    entry_id: int
    at: datetime
    actor: str
    change: Change


class AuditLog(Protocol):
    """The stored changes; part of a unit of work."""

    async def add(self, actor: Actor, change: Change, *, at: datetime) -> None:
        """Store a change, with the second person if it took two; it becomes durable with the unit of work."""

    async def page(
        self, *, before_id: int | None, limit: int, subject_id: str | None = None, action: str | None = None
    ) -> Sequence[AuditEntry]:
        """Return at most `limit` entries, newest first, with ids below `before_id`; None stands for all."""
