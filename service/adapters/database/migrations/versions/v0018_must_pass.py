"""Releases that devices must pass through, and which ones come after them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No release so far says so."""
    json = sa.JSON().with_variant(JSONB(), "postgresql")
    op.add_column("releases", sa.Column("must_pass", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("releases", sa.Column("after", json, nullable=False, server_default="{}"))


def downgrade() -> None:
    """Drop the columns; devices hold to what the release documents say all the same."""
    for name in ("after", "must_pass"):
        op.drop_column("releases", name)
