"""The message log and its senders."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make both tables."""
    op.create_table(
        "telemetry_senders",
        sa.Column("sender_id", sa.Integer, primary_key=True),
        sa.Column("device_id", sa.String(128), nullable=False, unique=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "telemetry_messages",
        sa.Column("message_id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("sender_id", sa.Integer, sa.ForeignKey("telemetry_senders.sender_id"), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("stream", sa.String(64), nullable=False),
        sa.Column("received_at_ms", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("properties", sa.Text, nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_index("telemetry_messages_by_sender", "telemetry_messages", ["sender_id", "message_id"])


def downgrade() -> None:
    """Drop both tables."""
    op.drop_table("telemetry_messages")
    op.drop_table("telemetry_senders")
