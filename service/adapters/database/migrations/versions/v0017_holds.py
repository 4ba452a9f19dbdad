"""Who waits for what in a rollout is read by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

_HOLDING = sa.text("state = 'scheduled' AND hold IS NOT NULL")


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "ix_actions_hold",
        "actions",
        ["rollout_id", "hold", "number"],
        sqlite_where=_HOLDING,
        postgresql_where=_HOLDING,
    )


def downgrade() -> None:
    """Remove the index."""
    op.drop_index("ix_actions_hold", "actions")
