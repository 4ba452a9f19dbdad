"""What devices learned by themselves: backups, and what operators ordered."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_SHA256 = sa.String(64)
_DEVICE = sa.String(128)
_GUID = sa.String(36)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "learned_states",
        sa.Column("device_id", _DEVICE, nullable=False),
        sa.Column("core", sa.String(16), nullable=False),
        sa.Column("component_id", _GUID, nullable=False),
        sa.Column("layout_sha256", _SHA256, nullable=False),
        sa.Column("template_sha256", _SHA256, nullable=False),
        sa.Column("windows", sa.BigInteger, nullable=False),
        sa.Column("prototypes", sa.Integer, nullable=False),
        sa.Column("sha256", _SHA256, nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_learned_states_device_id"),
        sa.PrimaryKeyConstraint("device_id", "core", name="pk_learned_states"),
    )
    _orders()


def _orders() -> None:
    op.create_table(
        "learned_orders",
        sa.Column("number", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("order_id", _GUID, nullable=False),
        sa.Column("device_id", _DEVICE, nullable=False),
        sa.Column("core", sa.String(16), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("source_device_id", _DEVICE),
        sa.Column("sha256", _SHA256),
        sa.Column("content", sa.LargeBinary),
        sa.Column("ordered_by", sa.String(64), nullable=False),
        sa.Column("ordered_at", _TIME, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("detail", sa.String(500), nullable=False),
        sa.Column("settled_at", _TIME),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_learned_orders_device_id"),
        sa.PrimaryKeyConstraint("number", name="pk_learned_orders"),
        sa.UniqueConstraint("order_id", name="uq_learned_orders_order_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_learned_orders_device_id_number", "learned_orders", ["device_id", "number"])
    op.create_index("ix_learned_orders_settled_at", "learned_orders", ["settled_at"])


def downgrade() -> None:
    """Remove the tables."""
    op.drop_table("learned_orders")
    op.drop_table("learned_states")
