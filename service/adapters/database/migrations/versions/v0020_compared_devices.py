"""What devices have found of a model in shadow is read by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_COMPARED = sa.text("agrees IS NOT NULL")


def upgrade() -> None:
    """Make the index."""
    op.create_index(
        "ix_actions_agrees",
        "actions",
        ["rollout_id", "agrees", "number"],
        sqlite_where=_COMPARED,
        postgresql_where=_COMPARED,
    )


def downgrade() -> None:
    """Remove the index."""
    op.drop_index("ix_actions_agrees", "actions")
