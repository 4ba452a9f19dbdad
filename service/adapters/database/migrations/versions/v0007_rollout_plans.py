"""Rollouts keep their plan whole, what was decided about them, and how devices failed."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_GUID = sa.String(36)
_CONDITIONS = ("success_percent", "error_percent", "min_reports", "soak_seconds", "action_timeout_seconds")
_UNDOES = "ix_rollouts_undoes"


def upgrade() -> None:
    """Write the conditions of rollouts as plans, then drop their columns; add what new plans need."""
    for column in _rollout_columns():
        op.add_column("rollouts", column)
    for column in _stage_columns():
        op.add_column("rollout_stages", column)
    _write_plans()
    for name in _CONDITIONS:
        op.drop_column("rollouts", name)
    op.create_index(_UNDOES, "rollouts", ["undoes"])
    _verdicts()


def _rollout_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("plan", sa.Text, nullable=False, server_default=""),
        sa.Column("question", sa.String(500), nullable=False, server_default=""),
        sa.Column("paced_at", _TIME),
        sa.Column("deadline_at", _TIME),
        sa.Column("undoes", _GUID),
        sa.Column("is_undone", sa.Boolean, nullable=False, server_default=sa.false()),
    )


def _stage_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("proved", sa.Integer, nullable=False, server_default="0"),
        sa.Column("causes", _JSON, nullable=False, server_default="{}"),
        sa.Column("is_approved", sa.Boolean, nullable=False, server_default=sa.false()),
    )


def _write_plans() -> None:
    connection = op.get_bind()
    rollouts = sa.table("rollouts", sa.column("rollout_id"), sa.column("plan"), *map(sa.column, _CONDITIONS))
    stages = sa.table("rollout_stages", *map(sa.column, ("rollout_id", "stage_index", "plan_count", "plan_percent")))
    for row in connection.execute(sa.select(rollouts)).all():
        query = sa.select(stages).where(stages.c.rollout_id == row.rollout_id).order_by(stages.c.stage_index)
        plan = _plan(row, connection.execute(query).all())
        text = json.dumps(plan, sort_keys=True, separators=(",", ":"))
        connection.execute(sa.update(rollouts).where(rollouts.c.rollout_id == row.rollout_id).values(plan=text))


def _plan(row: Any, stages: Any) -> dict[str, Any]:  # noqa: ANN401 - rows of tables as they were
    soak = f"{row.soak_seconds:.6f}s"
    return {
        "stages": [
            {"soak": soak}
            | ({"count": stage.plan_count} if stage.plan_count is not None else {"percent": stage.plan_percent})
            for stage in stages
        ],
        "gates": {
            "kind": "thresholds",
            "success_percent": row.success_percent,
            "error_percent": row.error_percent,
            "min_reports": row.min_reports,
        },
        "device_timeout": f"{row.action_timeout_seconds:.6f}s",
    }


def _verdicts() -> None:
    op.create_table(
        "rollout_verdicts",
        sa.Column("number", _SEQUENCE, nullable=False, autoincrement=True),
        sa.Column("rollout_id", _GUID, nullable=False),
        sa.Column("decided_at", _TIME, nullable=False),
        sa.Column("decision", sa.String(16), nullable=False),
        sa.Column("stage_index", sa.Integer),
        sa.Column("gate", sa.String(32), nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("figures", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_rollout_verdicts"),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.rollout_id"], name="fk_rollout_verdicts_rollout_id_rollouts"
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rollout_verdicts_rollout_id_number", "rollout_verdicts", ["rollout_id", "number"])


def downgrade() -> None:
    """Drop what the older form cannot hold; rollouts keep no conditions, and are to be ended before."""
    op.drop_table("rollout_verdicts")
    op.drop_index(_UNDOES, "rollouts")
    types = {"min_reports": sa.Integer}
    for name in _CONDITIONS:
        op.add_column("rollouts", sa.Column(name, types.get(name, sa.Float), nullable=False, server_default="1"))
    for name in ("plan", "question", "paced_at", "deadline_at", "undoes", "is_undone"):
        op.drop_column("rollouts", name)
    for name in ("proved", "causes", "is_approved"):
        op.drop_column("rollout_stages", name)
