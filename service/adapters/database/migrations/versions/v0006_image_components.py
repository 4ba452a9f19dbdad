"""Which component an image is a build of, in a column with an index."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_JSON = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Add the column, and fill it from the images' own words."""
    op.add_column("image_targets", sa.Column("component_id", sa.String(36), nullable=False, server_default=""))
    images = sa.table("image_targets", sa.column("custom", _JSON), sa.column("component_id", sa.String(36)))
    op.execute(sa.update(images).values(component_id=images.c.custom["component_id"].as_string()))
    op.create_index("ix_image_targets_component_id", "image_targets", ["component_id"])


def downgrade() -> None:
    """Remove the column."""
    op.drop_index("ix_image_targets_component_id", "image_targets")
    op.drop_column("image_targets", "component_id")
