"""Which number a device id has in the message log, remembered between commits."""

from collections.abc import Mapping, Sequence

from service.application.messaging import MessagingError, TelemetryRow

_MAX_REMEMBERED = 100_000


class TelemetryCommitError(MessagingError):
    """A batch was not committed; its messages must not be acknowledged."""


class SenderCache:
    """Device id → sender id of committed senders, bounded.

    Attributes:
        ids: What is remembered.
    """

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def missing(self, rows: Sequence[TelemetryRow]) -> list[str]:
        """Return the device ids of the rows that are not remembered."""
        return list({row[0] for row in rows} - self.ids.keys())

    def remember(self, added: Mapping[str, int]) -> None:
        """Take in ids, once the transaction that made them is committed."""
        if len(self.ids) + len(added) > _MAX_REMEMBERED:
            self.ids.clear()
        self.ids.update(added)
