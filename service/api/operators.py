"""Operators: list, add, remove (admin)."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, status
from pydantic import BaseModel, Field

from service.api.auth import AdminActor, ViewerActor
from service.api.requests import RequestModel
from service.api.services import ServicesParameter
from service.domain.operator import Operator, Role

router = APIRouter(prefix="/operators", tags=["operators"])

OperatorName = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._@-]+$")]
OperatorId = Annotated[str, Path(max_length=64)]


class OperatorModel(BaseModel):
    """An operator."""

    id: str
    name: str
    role: Role
    from_file: bool
    created_at: datetime


class OperatorList(BaseModel):
    """Every operator."""

    items: list[OperatorModel]
    next_cursor: str | None = None


class NewOperator(RequestModel):
    """An operator to add."""

    name: OperatorName
    role: Role


class AddedOperator(OperatorModel):
    """An operator with the bearer token, which is shown this once."""

    token: str


@router.get("")
async def list_operators(_actor: AdminActor, services: ServicesParameter) -> OperatorList:
    """List operators."""
    return OperatorList(items=[_model(operator) for operator in await services.operators.list()])


@router.get("/me")
async def show_caller(actor: ViewerActor) -> NewOperator:
    """Show who the caller is."""
    return NewOperator(name=actor.name, role=actor.role)


@router.post("", status_code=status.HTTP_201_CREATED)
async def add_operator(actor: AdminActor, services: ServicesParameter, wanted: NewOperator) -> AddedOperator:
    """Add an operator. Idempotency keys are not stored here, because the answer holds a token; names are unique."""
    operator, token = await services.operators.add(actor, name=wanted.name, role=wanted.role)
    return AddedOperator(**_model(operator).model_dump(), token=token)


@router.delete("/{operator_id}", status_code=status.HTTP_204_NO_CONTENT)
async def remove_operator(actor: AdminActor, services: ServicesParameter, operator_id: OperatorId) -> None:
    """Remove an operator; its token is worth nothing from now on."""
    await services.operators.remove(actor, operator_id)


def _model(operator: Operator) -> OperatorModel:
    return OperatorModel(
        id=operator.operator_id,
        name=operator.name,
        role=operator.role,
        from_file=operator.from_file,
        created_at=operator.created_at,
    )
