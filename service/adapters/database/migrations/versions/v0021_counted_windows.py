"""Which of a core's windows gates have compared: no time twice, and once in a slot."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    op.add_column("model_health", sa.Column("counted", sa.JSON().with_variant(JSONB(), "postgresql")))


def downgrade() -> None:
    """Drop it."""
    with op.batch_alter_table("model_health") as table:
        table.drop_column("counted")
