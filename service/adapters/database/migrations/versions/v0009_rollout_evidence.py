"""Rollouts keep what their gates have seen beside the counts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_EVIDENCE = "rollout_evidence"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        _EVIDENCE,
        sa.Column("rollout_id", sa.String(36), nullable=False),
        sa.Column("gate", sa.String(32), nullable=False),
        sa.Column("state", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "gate", name="pk_rollout_evidence"),
        sa.ForeignKeyConstraint(
            ["rollout_id"], ["rollouts.rollout_id"], name="fk_rollout_evidence_rollout_id_rollouts"
        ),
    )


def downgrade() -> None:
    """Drop it."""
    op.drop_table(_EVIDENCE)
