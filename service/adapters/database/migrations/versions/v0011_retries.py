"""Actions are tried again, with what they failed for kept; a device's metadata names the attempt."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_INDEXES = {
    "ix_actions_blames": (["rollout_id", "blames", "number"], "blames IS NOT NULL"),
    "ix_actions_ended_badly": (["rollout_id", "number"], "state IN ('failed', 'reverted', 'timed-out', 'cancelled')"),
}
_COLUMNS = {"actions": ("past", "blames", "not_before"), "rollout_stages": ("again",), "rollouts": ("retry_cursor",)}


def upgrade() -> None:
    """Add the columns, write what actions have failed for, and index it."""
    op.add_column("actions", sa.Column("past", _JSON, nullable=False, server_default="[]"))
    op.add_column("actions", sa.Column("blames", sa.String(200)))
    op.add_column("actions", sa.Column("not_before", _TIME))
    op.add_column("rollout_stages", sa.Column("again", sa.Integer, nullable=False, server_default="0"))
    op.add_column("rollouts", sa.Column("retry_cursor", sa.BigInteger))
    op.add_column("director_sets", sa.Column("attempt", sa.Integer, nullable=False, server_default="1"))
    failed = "UPDATE actions SET blames = COALESCE(cause, 'boot') WHERE state IN ('failed', 'reverted', 'timed-out')"
    op.execute(sa.text(failed))
    for name, (columns, condition) in _INDEXES.items():
        where = sa.text(condition)
        op.create_index(name, "actions", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    """Drop them; rollouts with devices that tried again are to be ended before."""
    for name in _INDEXES:
        op.drop_index(name, "actions")
    op.drop_column("director_sets", "attempt")
    for table, names in _COLUMNS.items():
        for name in names:
            op.drop_column(table, name)
