"""Whom gates have counted is kept as long as the rollout, and no longer deleted by its age."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_BY_AGE = "ix_counted_devices_at"


def upgrade() -> None:
    """Drop the index."""
    op.drop_index(_BY_AGE, "counted_devices")


def downgrade() -> None:
    """Add the index."""
    op.create_index(_BY_AGE, "counted_devices", ["at"])
