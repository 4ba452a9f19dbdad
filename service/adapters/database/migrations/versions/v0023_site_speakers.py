"""Rollouts know who speaks for which site; whom gates have counted is no longer deleted by its age."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_SPEAKERS, _BY_AGE = "site_speakers", "ix_counted_devices_at"


def upgrade() -> None:
    """Add the table, and drop the index."""
    op.create_table(
        _SPEAKERS,
        sa.Column("rollout_id", sa.String(36), nullable=False),
        sa.Column("gate", sa.String(32), nullable=False),
        sa.Column("site", sa.String(130), nullable=False),
        sa.Column("device_id", sa.String(128), nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "gate", "site", name="pk_site_speakers"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.rollout_id"], name="fk_site_speakers_rollout_id_rollouts"),
    )
    op.drop_index(_BY_AGE, "counted_devices")


def downgrade() -> None:
    """Drop the table, and add the index."""
    op.create_index(_BY_AGE, "counted_devices", ["at"])
    op.drop_table(_SPEAKERS)
