"""How many devices run an image is counted in an index that holds no device ids, a tenth of the other's size."""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_COUNTED = "ix_installed_images_slot_sha256"


def upgrade() -> None:
    """Add the index."""
    op.create_index(_COUNTED, "installed_images", ["slot", "sha256"])


def downgrade() -> None:
    """Drop the index."""
    op.drop_index(_COUNTED, "installed_images")
