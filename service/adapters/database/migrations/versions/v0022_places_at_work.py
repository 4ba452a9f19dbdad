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
# What no older version can read: actions that wait for a release to pass through, and rollouts that ended empty.
_STAGES = """
UPDATE rollout_stages SET held = held - (
    SELECT count(*) FROM actions
    WHERE actions.rollout_id = rollout_stages.rollout_id AND actions.stage_index = rollout_stages.stage_index
    AND actions.hold = 'passage' AND actions.state = 'scheduled' AND NOT actions.heals
)
WHERE rollout_stages.held > 0
"""
_HOLDS = "UPDATE actions SET hold = NULL, not_before = NULL WHERE hold = 'passage'"
_VERDICTS = "UPDATE rollout_verdicts SET decision = 'finished' WHERE decision = 'ended-empty'"


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
    """Drop it; who waits for a release to pass through is offered the later one at once."""
    for statement in (_STAGES, _HOLDS, _VERDICTS):
        op.execute(statement)
    op.drop_table("places_at_work")
