"""Use cases of operators: authenticate, list, add, remove, and keep the table equal to operators.json."""

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass

from service.application.audit import Change
from service.application.clock import Clock
from service.application.entropy import Entropy
from service.application.events import Event, EventType
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.errors import ConflictError, ForbiddenError, NotFoundError, UnauthenticatedError
from service.domain.operator import SERVICE, Actor, Operator, Role

TOKEN_BYTES = 32


class CredentialError(UnauthenticatedError):
    """No token or client certificate of an operator."""


class RoleError(ForbiddenError):
    """The operator's role does not include what was asked."""


class UnknownOperatorError(NotFoundError):
    """There is no such operator."""


class FileOperatorError(ConflictError):
    """The operator is defined in operators.json and changes only there."""


@dataclass(frozen=True, slots=True)
class FileOperator:
    """An operator as operators.json names it.

    Attributes:
        token_sha256: SHA-256 of the token, lower-case hex.
    """

    name: str
    role: Role
    token_sha256: str


def token_digest(token: str) -> str:
    """Return what is stored of a token: SHA-256, lower-case hex."""
    return hashlib.sha256(token.encode()).hexdigest()


class Operators:
    """Operators and their credentials."""

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock, entropy: Entropy) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self._entropy = entropy

    async def by_token(self, token: str) -> Operator:
        """Return the operator whose token this is.

        Raises:
            CredentialError: nobody's.
        """
        digest = token_digest(token)
        async with self._unit_of_work(read_only=True) as work:
            known = await work.operators.all()
        # Every stored digest is compared, each in constant time.
        found = [
            operator
            for operator in known
            if operator.token_sha256 is not None and hmac.compare_digest(operator.token_sha256, digest)
        ]
        if not found:
            raise CredentialError("token: expected one of an operator, found another")
        return found[0]

    async def by_name(self, name: str) -> Operator:
        """Return the operator whom a verified client certificate names.

        Raises:
            CredentialError: there is none of this name.
        """
        async with self._unit_of_work(read_only=True) as work:
            known = await work.operators.all()
        found = next((operator for operator in known if operator.name == name), None)
        if found is None:
            raise CredentialError(f"operator certificate: expected the name of an operator, found {name[:64]!r}")
        return found

    async def list(self) -> Sequence[Operator]:
        """Return every operator, by name."""
        async with self._unit_of_work(read_only=True) as work:
            return await work.operators.all()

    async def add(self, actor: Actor, *, name: str, role: Role) -> tuple[Operator, str]:
        """Add an operator.

        Returns:
            The operator and the bearer token, which is stored nowhere.

        Raises:
            NameTakenError: an operator of this name exists.
        """
        token = urlsafe_b64encode(self._entropy.octets(TOKEN_BYTES)).decode().rstrip("=")
        operator = self._operator(name, role, token_digest(token), from_file=False)
        async with self._unit_of_work() as work:
            await self._store(work, actor, operator)
            await work.commit()
        return operator, token

    async def remove(self, actor: Actor, operator_id: str) -> None:
        """Remove an operator; the token is worth nothing from now on.

        Raises:
            UnknownOperatorError: there is none.
            FileOperatorError: it is defined in operators.json.
        """
        async with self._unit_of_work() as work:
            known = {operator.operator_id: operator for operator in await work.operators.all()}
            operator = known.get(operator_id)
            if operator is None:
                raise UnknownOperatorError(f"operator: expected an id in use, found {operator_id[:36]!r}")
            if operator.from_file:
                raise FileOperatorError(f"operator {operator.name}: expected to be removed from operators.json")
            await self._drop(work, actor, operator)
            await work.commit()

    async def synchronise(self, wanted: Sequence[FileOperator]) -> None:
        """Make the operators of operators.json those in force; at start."""
        async with self._unit_of_work() as work:
            stored = [operator for operator in await work.operators.all() if operator.from_file]
            in_force = {(operator.name, operator.role, operator.token_sha256) for operator in stored}
            in_file = {(operator.name, operator.role, operator.token_sha256) for operator in wanted}
            for operator in stored:
                if (operator.name, operator.role, operator.token_sha256) not in in_file:
                    await self._drop(work, SERVICE, operator)
            for name, role, digest in sorted(in_file - in_force, key=lambda entry: entry[0]):
                await self._store(work, SERVICE, self._operator(name, role, digest, from_file=True))
            await work.commit()

    def _operator(self, name: str, role: Role, token_sha256: str | None, *, from_file: bool) -> Operator:
        return Operator(
            operator_id=self._entropy.guid(),
            name=name,
            role=role,
            token_sha256=token_sha256,
            from_file=from_file,
            created_at=self._clock.now(),
        )

    async def _store(self, work: UnitOfWork, actor: Actor, operator: Operator) -> None:
        await work.operators.add(operator)
        change = Change("operator.add", operator.operator_id, after={"name": operator.name, "role": operator.role})
        await work.audit.add(actor, change, at=operator.created_at)
        work.record(Event(EventType.OPERATOR, operator.operator_id, "added", operator.created_at))

    async def _drop(self, work: UnitOfWork, actor: Actor, operator: Operator) -> None:
        now = self._clock.now()
        await work.operators.remove(operator.operator_id)
        change = Change("operator.remove", operator.operator_id, before={"name": operator.name, "role": operator.role})
        await work.audit.add(actor, change, at=now)
        work.record(Event(EventType.OPERATOR, operator.operator_id, "removed", now))
