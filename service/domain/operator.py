"""Operators: who may do what."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Role(StrEnum):
    """What an operator may do; each role may all that the ones before it may."""

    VIEWER = "viewer"  # read
    OPERATOR = "operator"  # devices, groups, rollouts
    RELEASER = "releaser"  # artifacts and releases
    ADMIN = "admin"  # operators

    def includes(self, needed: "Role") -> bool:
        """Say whether this role may what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change; the audit log names it.

    Attributes:
        approved_by: name of the second person, where the change took two; else empty.
    """

    name: str
    role: Role
    approved_by: str = ""


SERVICE = Actor(name="service", role=Role.ADMIN)  # what the service does by itself


@dataclass(frozen=True, slots=True)
class Operator:
    """Someone who may use the operator API.

    Attributes:
        operator_id: GUID.
        token_sha256: SHA-256 of the bearer token, lower-case hex; None where only a certificate is used.
        from_file: written in operators.json, which is the only place to change it.
    """

    operator_id: str
    name: str
    role: Role
    token_sha256: str | None
    from_file: bool
    created_at: datetime

    @property
    def actor(self) -> Actor:
        """The operator as the audit log names it."""
        return Actor(name=self.name, role=self.role)
