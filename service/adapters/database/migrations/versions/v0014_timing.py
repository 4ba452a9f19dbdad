"""Actions may be held: for a window, for their device's user, or for another device at the same place."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_HELD = sa.text("state = 'scheduled' AND not_before IS NOT NULL AND hold <> 'retry'")
_AT_PLACE = sa.text("state = 'scheduled' AND place <> ''")


def upgrade() -> None:
    """Add the columns; nothing is held yet but what waits to be tried again."""
    op.add_column("actions", sa.Column("hold", sa.String(16)))
    op.add_column("actions", sa.Column("place", sa.String(160), nullable=False, server_default=""))
    op.add_column("actions", sa.Column("deferrals", sa.Integer, nullable=False, server_default="0"))
    op.add_column("rollouts", sa.Column("held_until", _TIME))
    op.add_column("rollout_stages", sa.Column("held", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE actions SET hold = 'retry' WHERE not_before IS NOT NULL")
    op.create_index(
        "ix_actions_held", "actions", ["rollout_id", "not_before"], sqlite_where=_HELD, postgresql_where=_HELD
    )
    op.create_index(
        "ix_actions_place", "actions", ["place", "number"], sqlite_where=_AT_PLACE, postgresql_where=_AT_PLACE
    )


def downgrade() -> None:
    """Drop them; what is held is then offered at once."""
    op.drop_index("ix_actions_place", "actions")
    op.drop_index("ix_actions_held", "actions")
    op.drop_column("rollout_stages", "held")
    op.drop_column("rollouts", "held_until")
    for name in ("deferrals", "place", "hold"):
        op.drop_column("actions", name)
