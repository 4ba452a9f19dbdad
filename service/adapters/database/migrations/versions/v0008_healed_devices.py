"""Whom a rollout gave its release is read by an index, those included whom it healed."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_EXPOSED = "ix_actions_exposed"


def upgrade() -> None:
    """Index what was offered."""
    offered = sa.text("offered")
    op.create_index(_EXPOSED, "actions", ["rollout_id", "device_id"], sqlite_where=offered, postgresql_where=offered)


def downgrade() -> None:
    """Drop the index."""
    op.drop_index(_EXPOSED, "actions")
