"""What comes into force in one transaction, and who acts on it there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from tuf.api.metadata import TargetFile

from service.application.unit_of_work import UnitOfWork
from service.application.update_repositories import MetadataFile


@dataclass(frozen=True, slots=True)
class Publication:
    """Verified metadata that comes into force.

    Attributes:
        files: every new file: roots, and targets of any role; snapshot and timestamp are not here.
        added: targets that no role listed before, by name; one that only moves from role to role is not here.
    """

    files: tuple[MetadataFile, ...]
    added: Mapping[str, TargetFile] = field(default_factory=dict)


class PublicationListener(Protocol):
    """Acts on a publication in its transaction: all of it comes into force, or nothing."""

    async def published(self, work: UnitOfWork, publication: Publication, *, now: datetime) -> None:
        """Store what follows from a publication; the caller commits.

        Args:
            work: the transaction.
            publication: its targets' signatures, form and bytes have been verified.
            now: UTC, aware.
        """
