"""Rollouts know which devices count for which site."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_SITES = "rollout_sites"


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        _SITES,
        sa.Column("rollout_id", sa.String(36), nullable=False),
        sa.Column("attribute", sa.String(40), nullable=False),
        sa.Column("device_id", sa.String(128), nullable=False),
        sa.Column("site", sa.String(130), nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("causes", sa.JSON().with_variant(JSONB(), "postgresql"), nullable=False),
        sa.Column("is_settled", sa.Boolean, nullable=False),
        sa.Column("is_confirmed", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "attribute", "device_id", name="pk_rollout_sites"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.rollout_id"], name="fk_rollout_sites_rollout_id_rollouts"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_rollout_sites_device_id_devices"),
    )
    op.create_index("uq_rollout_sites_place", _SITES, ["rollout_id", "attribute", "site", "place"], unique=True)


def downgrade() -> None:
    """Drop it."""
    op.drop_table(_SITES)
