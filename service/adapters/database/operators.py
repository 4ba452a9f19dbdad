"""Operators in the control database."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.device_tables import operators
from service.domain.errors import NameTakenError
from service.domain.operator import Operator, Role


class SqlOperators:
    """Implements `OperatorRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def all(self) -> Sequence[Operator]:
        """See `OperatorRepository.all`."""
        rows = await self._connection.execute(select(operators).order_by(operators.c.name))
        return [_operator(row) for row in rows]

    async def add(self, operator: Operator) -> None:
        """See `OperatorRepository.add`."""
        values = {
            "operator_id": operator.operator_id,
            "name": operator.name,
            "role": operator.role,
            "token_sha256": operator.token_sha256,
            "from_file": operator.from_file,
            "created_at": operator.created_at,
        }
        try:
            await self._connection.execute(insert(operators).values(values))
        except IntegrityError as error:
            raise NameTakenError(f"operator: expected a new name and token, found {operator.name} in use") from error

    async def remove(self, operator_id: str) -> None:
        """See `OperatorRepository.remove`."""
        await self._connection.execute(delete(operators).where(operators.c.operator_id == operator_id))


def _operator(row: Row[Any]) -> Operator:
    return Operator(
        operator_id=row.operator_id,
        name=row.name,
        role=Role(row.role),
        token_sha256=row.token_sha256,
        from_file=row.from_file,
        created_at=row.created_at,
    )
