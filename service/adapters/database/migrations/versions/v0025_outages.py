"""When workers have held a lease, with the outages between, beside since when without a gap."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; what is not known yet counts as no outage remembered."""
    op.add_column("leases", sa.Column("listening", sa.JSON().with_variant(JSONB(), "postgresql")))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("leases", "listening")
