"""What devices say of their models, and which of them gates have counted."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_DEVICE_ID = sa.String(128)
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_HEALTH, _COUNTED = "model_health", "counted_devices"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        _HEALTH,
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("core", sa.String(16), nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("last", _JSON, nullable=False),
        sa.Column("past", _JSON, nullable=False),
        sa.Column("before", _JSON),
        sa.PrimaryKeyConstraint("device_id", "core", name="pk_model_health"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_model_health_device_id_devices"),
    )
    op.create_index("ix_model_health_received_at", _HEALTH, ["received_at"])
    op.create_table(
        _COUNTED,
        sa.Column("rollout_id", sa.String(36), nullable=False),
        sa.Column("gate", sa.String(32), nullable=False),
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("arm", sa.String(16), nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("detail", sa.String(500), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "gate", "device_id", name="pk_counted_devices"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.rollout_id"], name="fk_counted_devices_rollout_id_rollouts"),
    )
    op.create_index("ix_counted_devices_at", _COUNTED, ["at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table(_COUNTED)
    op.drop_table(_HEALTH)
