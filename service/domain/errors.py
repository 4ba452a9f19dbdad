"""The base of every error that the service raises, and the seven ways in which a request can go wrong.

A leaf names the broken rule and derives from one of the seven; `service.api.problems` maps them to HTTP.
"""

from collections.abc import Mapping
from typing import TypeAlias

JsonValue: TypeAlias = "str | int | float | bool | list[JsonValue] | dict[str, JsonValue] | None"


class ServiceError(Exception):
    """Base: a request or a state broke a rule of the service.

    Attributes:
        members: facts for a client to read beside the message; they become members of the problem document.
    """

    def __init__(self, message: str, *, members: Mapping[str, JsonValue] | None = None) -> None:
        super().__init__(message)
        self.members: Mapping[str, JsonValue] = members or {}


class InvalidError(ServiceError):
    """What was sent is not of the expected form, or does not fit what is there."""


class UnauthenticatedError(ServiceError):
    """The caller did not prove who it is."""


class ForbiddenError(ServiceError):
    """The caller is known and may not do this, or its proof was refused."""


class NotFoundError(ServiceError):
    """There is nothing of this name."""


class ConflictError(ServiceError):
    """It contradicts what is in force."""


class StaleError(ServiceError):
    """The caller's copy is older than what is in force (If-Match)."""


class TooManyRequestsError(ServiceError):
    """It would be answered later; the service answers only so many of its kind."""


class UnavailableError(ServiceError):
    """Something behind the service does not answer, or not as it should; operators find it in the log."""


class NameTakenError(ConflictError):
    """Something of this name exists."""


class VersionConflictError(StaleError):
    """Another change came first."""


class CursorError(InvalidError):
    """The cursor is not one that the service gave out."""
