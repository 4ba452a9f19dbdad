"""Attributes of devices: facts that operators give them."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "device_attributes",
        sa.Column("device_id", sa.String(128), nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.Column("value", sa.String(100), nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_device_attributes_device_id_devices"),
        sa.PrimaryKeyConstraint("device_id", "name", name="pk_device_attributes"),
    )
    op.create_index("ix_device_attributes_name_value_device_id", "device_attributes", ["name", "value", "device_id"])


def downgrade() -> None:
    """Remove the table."""
    op.drop_table("device_attributes")
