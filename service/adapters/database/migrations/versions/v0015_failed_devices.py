"""Which devices of a rollout had failed by a time, and for what, is read by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_BLAMES = "ix_actions_blames"


def upgrade() -> None:
    """Write when actions failed: those that wait for a further attempt as of their last change."""
    op.add_column("actions", sa.Column("failed_at", sa.DateTime(timezone=True)))
    op.execute(sa.text("UPDATE actions SET failed_at = progressed_at WHERE blames IS NOT NULL"))
    _index(["rollout_id", "blames", "failed_at"])


def downgrade() -> None:
    """Index by number again, and drop the time."""
    _index(["rollout_id", "blames", "number"])
    op.drop_column("actions", "failed_at")


def _index(columns: list[str]) -> None:
    blamed = sa.text("blames IS NOT NULL")
    op.drop_index(_BLAMES, "actions")
    op.create_index(_BLAMES, "actions", columns, sqlite_where=blamed, postgresql_where=blamed)
