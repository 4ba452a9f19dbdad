"""Devices wait with a release, or run a model in shadow, until they are told to install it."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_COUNTS = ("downloaded", "compared", "agreed", "disagreed", "broke")
_RUNNING = "uq_actions_running"
_BEFORE = sa.text("state IN ('offered', 'downloading', 'installing', 'trial')")
_NOW = sa.text("state IN ('offered', 'downloading', 'downloaded', 'shadowing', 'installing', 'trial')")


def upgrade() -> None:
    """Add orders and counts of shadows; a device that waits with a release works on it."""
    op.add_column("rollouts", sa.Column("is_released", sa.Boolean, nullable=False, server_default=sa.false()))
    for name in _COUNTS:
        op.add_column("rollout_stages", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    for table in ("actions", "director_sets"):
        op.add_column(table, sa.Column("order", sa.String(16), nullable=False, server_default="install"))
    op.add_column("actions", sa.Column("shadow", _JSON))
    op.add_column("actions", sa.Column("agrees", sa.Boolean))
    _index_running(_NOW)


def downgrade() -> None:
    """Drop them; rollouts that download only or run a shadow are to be ended before."""
    _index_running(_BEFORE)
    for name in ("agrees", "shadow", "order"):
        op.drop_column("actions", name)
    op.drop_column("director_sets", "order")
    for name in _COUNTS:
        op.drop_column("rollout_stages", name)
    op.drop_column("rollouts", "is_released")


def _index_running(states: sa.TextClause) -> None:
    op.drop_index(_RUNNING, "actions")
    op.create_index(_RUNNING, "actions", ["device_id"], unique=True, sqlite_where=states, postgresql_where=states)
