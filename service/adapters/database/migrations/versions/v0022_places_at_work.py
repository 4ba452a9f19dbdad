"""Where devices are at an update: the places that each belongs to, kept from its beginning to its end."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_RUNNING = """
INSERT INTO places_at_work (place, action_id, device_id)
SELECT device_attributes.name || '=' || device_attributes.value, actions.action_id, actions.device_id
FROM actions JOIN device_attributes ON device_attributes.device_id = actions.device_id
WHERE actions.state IN ('offered', 'downloading', 'downloaded', 'shadowing', 'installing', 'trial')
"""


def upgrade() -> None:
    """Add the table, with the devices that are at an update now."""
    op.create_table(
        "places_at_work",
        sa.Column("place", sa.String(160), nullable=False),
        sa.Column("action_id", sa.String(36), nullable=False),
        sa.Column("device_id", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("place", "action_id", name="pk_places_at_work"),
    )
    op.create_index("ix_places_at_work_action_id", "places_at_work", ["action_id"])
    op.execute(_RUNNING)


def downgrade() -> None:
    """Drop it."""
    op.drop_table("places_at_work")
