"""The signed supply chain: delegated roles, ways back, documents, patches, the transparency log."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_SHA256 = sa.String(64)
_TARGET = sa.String(300)
_INSTALLED = "ix_installed_images_slot_sha256_device_id"
_EVENTS = "ix_events_type_sequence"


def upgrade() -> None:
    """Add columns and make the tables; what they hold of metadata in force is filled in at the next start."""
    with op.batch_alter_table("metadata_files") as files:
        files.alter_column("role", type_=sa.String(64), existing_type=sa.String(16), existing_nullable=False)
    for column in _release_columns():
        op.add_column("releases", column)
    op.add_column("director_sets", sa.Column("root_version", sa.BigInteger, nullable=False, server_default="1"))
    _targets()
    _documents()
    _vex_statements()
    _deltas()
    _log()
    op.drop_index("ix_installed_images_slot_sha256", "installed_images")
    op.create_index(_INSTALLED, "installed_images", ["slot", "sha256", "device_id"])
    op.create_index(_EVENTS, "events", ["type", "sequence"])


def _release_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("goes_back", _JSON, nullable=False, server_default="{}"),
        sa.Column("way_back_of", sa.String(64)),
        sa.Column("support_ends", _TIME),
    )


def _targets() -> None:
    op.create_table(
        "metadata_targets",
        sa.Column("path", _TARGET, nullable=False),
        sa.Column("role", sa.String(64), nullable=False),
        sa.Column("sha256", _SHA256, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("path", name="pk_metadata_targets"),
    )
    op.create_index("ix_metadata_targets_role", "metadata_targets", ["role"])
    op.create_index("ix_metadata_targets_sha256", "metadata_targets", ["sha256"])


def _documents() -> None:
    op.create_table(
        "documents",
        sa.Column("number", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("path", _TARGET, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("sha256", _SHA256, nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_documents"),
        sa.UniqueConstraint("path", name="uq_documents_path"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_documents_subject_kind", "documents", ["subject", "kind"])
    op.create_table(
        "bom_components",
        sa.Column("number", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("sha256", _SHA256, nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(100), nullable=False),
        sa.Column("purl", sa.String(300), nullable=False),
        sa.Column("name_key", sa.String(600), nullable=False),
        sa.Column("package", sa.String(300), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_bom_components"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_bom_components_sha256", "bom_components", ["sha256"])
    op.create_index("ix_bom_components_package", "bom_components", ["package"])
    op.create_index("ix_bom_components_name_key_version", "bom_components", ["name_key", "version"])


def _vex_statements() -> None:
    op.create_table(
        "vex_statements",
        sa.Column("number", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("sha256", _SHA256, nullable=False),
        sa.Column("vulnerability", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("version", sa.String(100), nullable=False),
        sa.Column("purl", sa.String(300), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("justification", sa.String(40), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("made_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_vex_statements"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_vex_statements_release", "vex_statements", ["release"])
    op.create_index("ix_vex_statements_vulnerability", "vex_statements", ["vulnerability"])


def _deltas() -> None:
    op.create_table(
        "deltas",
        sa.Column("from_sha256", _SHA256, nullable=False),
        sa.Column("to_sha256", _SHA256, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("patch_sha256", _SHA256),
        sa.Column("patch_length", sa.BigInteger),
        sa.Column("full_length", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("from_sha256", "to_sha256", name="pk_deltas"),
    )
    queued = sa.text("state = 'queued'")
    op.create_index("ix_deltas_queued", "deltas", ["created_at"], sqlite_where=queued, postgresql_where=queued)
    op.create_index("ix_deltas_to_sha256", "deltas", ["to_sha256"])


def _log() -> None:
    op.create_table(
        "log_entries",
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", _TARGET, nullable=False),
        sa.Column("subject", _SHA256, nullable=False),
        sa.Column("entry", sa.LargeBinary, nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_log_entries"),
    )
    op.create_index("ix_log_entries_name", "log_entries", ["name"])
    op.create_index("ix_log_entries_subject", "log_entries", ["subject"])
    op.create_index("uq_log_entries_leaf_hash", "log_entries", ["leaf_hash"], unique=True)
    op.create_table(
        "log_tiles",
        sa.Column("level", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name="pk_log_tiles"),
    )
    op.create_table(
        "log_checkpoints",
        sa.Column("size", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("size", name="pk_log_checkpoints"),
    )


def downgrade() -> None:
    """Remove what was added."""
    op.drop_index(_EVENTS, "events")
    op.drop_index(_INSTALLED, "installed_images")
    op.create_index("ix_installed_images_slot_sha256", "installed_images", ["slot", "sha256"])
    op.drop_table("vex_statements")
    for table in ("log_checkpoints", "log_tiles", "log_entries", "deltas", "bom_components", "documents"):
        op.drop_table(table)
    op.drop_table("metadata_targets")
    for column in _release_columns():
        op.drop_column("releases", column.name)
    op.drop_column("director_sets", "root_version")
    op.execute("DELETE FROM metadata_files WHERE role NOT IN ('root', 'targets', 'snapshot', 'timestamp')")
    with op.batch_alter_table("metadata_files") as files:
        files.alter_column("role", type_=sa.String(16), existing_type=sa.String(64), existing_nullable=False)
