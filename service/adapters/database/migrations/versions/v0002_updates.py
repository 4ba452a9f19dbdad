"""Artifacts, metadata, releases, rollouts, actions, the Director, and leases."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_GUID = sa.String(36)
_DEVICE_ID = sa.String(128)
_LOOKED_AT = "look_at IS NOT NULL"
_UNFINISHED = "due_at IS NOT NULL"
_SCHEDULED = "state = 'scheduled'"
_RUNNING = "state IN ('offered', 'downloading', 'installing', 'trial')"


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    """Make the tables."""
    _repository()
    _releases()
    _rollouts()
    _actions()
    _devices()
    _leases()


def _repository() -> None:
    op.create_table(
        "artifacts",
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("facts", _JSON, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_artifacts"),
    )
    op.create_table(
        "metadata_files",
        sa.Column("repository", sa.String(16), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("repository", "role", "version", name="pk_metadata_files"),
    )
    op.create_table(
        "image_targets",
        sa.Column("path", sa.String(300), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.Column("custom", _JSON, nullable=False),
        sa.Column("image_id", _GUID),
        sa.Column("since_version", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("path", name="pk_image_targets"),
        sa.UniqueConstraint("image_id", name="uq_image_targets_image_id"),
    )
    op.create_index("ix_image_targets_sha256", "image_targets", ["sha256"])


def _releases() -> None:
    op.create_table(
        "releases",
        sa.Column("release_id", _GUID, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("target", sa.String(300), nullable=False),
        sa.Column("factory", sa.Boolean, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("release_id", name="pk_releases"),
        sa.UniqueConstraint("name", name="uq_releases_name"),
        sa.UniqueConstraint("counter", name="uq_releases_counter"),
    )
    op.create_table(
        "release_images",
        sa.Column("release_id", _GUID, nullable=False),
        sa.Column("slot", sa.String(32), nullable=False),
        sa.Column("target", sa.String(300), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("length", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("release_id", "slot", name="pk_release_images"),
        sa.ForeignKeyConstraint(["release_id"], ["releases.release_id"], name="fk_release_images_release_id"),
        sa.ForeignKeyConstraint(["target"], ["image_targets.path"], name="fk_release_images_target"),
    )
    op.create_index("ix_release_images_sha256", "release_images", ["sha256"])


def _rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("number", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("rollout_id", _GUID, nullable=False),
        sa.Column("release_id", _GUID, nullable=False),
        sa.Column("group_id", _GUID, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("halted_reason", sa.String(500), nullable=False),
        sa.Column("success_percent", sa.Float, nullable=False),
        sa.Column("error_percent", sa.Float, nullable=False),
        sa.Column("min_reports", sa.Integer, nullable=False),
        sa.Column("soak_seconds", sa.Float, nullable=False),
        sa.Column("action_timeout_seconds", sa.Float, nullable=False),
        sa.Column("resumed_at", _TIME),
        sa.Column("opening_cursor", _DEVICE_ID, nullable=False),
        sa.Column("look_at", _TIME),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("created_by", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_rollouts"),
        sa.ForeignKeyConstraint(["group_id"], ["device_groups.group_id"], name="fk_rollouts_group_id"),
        sa.ForeignKeyConstraint(["release_id"], ["releases.release_id"], name="fk_rollouts_release_id"),
        sa.UniqueConstraint("rollout_id", name="uq_rollouts_rollout_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_rollouts_look_at", "rollouts", ["look_at"], **_where(_LOOKED_AT))
    op.create_index("ix_rollouts_state", "rollouts", ["state"])
    op.create_table(
        "rollout_stages",
        sa.Column("rollout_id", _GUID, nullable=False),
        sa.Column("stage_index", sa.Integer, nullable=False),
        sa.Column("plan_count", sa.Integer),
        sa.Column("plan_percent", sa.Float),
        sa.Column("threshold", sa.BigInteger),
        sa.Column("planned", sa.Integer),
        sa.Column("is_capped", sa.Boolean),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("is_open", sa.Boolean, nullable=False),
        sa.Column("soak_ends_at", _TIME),
        sa.Column("reason", sa.String(500), nullable=False),
        sa.Column("scheduled", sa.Integer, nullable=False),
        sa.Column("in_progress", sa.Integer, nullable=False),
        sa.Column("succeeded", sa.Integer, nullable=False),
        sa.Column("failed", sa.Integer, nullable=False),
        sa.Column("cancelled", sa.Integer, nullable=False),
        sa.Column("reverted", sa.Integer, nullable=False),
        sa.Column("ruled", sa.Integer, nullable=False),
        sa.Column("exposed", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("rollout_id", "stage_index", name="pk_rollout_stages"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.rollout_id"], name="fk_rollout_stages_rollout_id"),
    )


def _actions() -> None:
    op.create_table(
        "actions",
        sa.Column("number", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("action_id", _GUID, nullable=False),
        sa.Column("rollout_id", _GUID, nullable=False),
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("stage_index", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("cause", sa.String(16)),
        sa.Column("detail", sa.String(500), nullable=False),
        sa.Column("offered", sa.Boolean, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("progressed_at", _TIME, nullable=False),
        sa.Column("due_at", _TIME),
        sa.PrimaryKeyConstraint("number", name="pk_actions"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_actions_device_id"),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollouts.rollout_id"], name="fk_actions_rollout_id"),
        sa.UniqueConstraint("action_id", name="uq_actions_action_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_actions_device_id_number", "actions", ["device_id", "number"])
    op.create_index("ix_actions_due_at", "actions", ["due_at"], **_where(_UNFINISHED))
    op.create_index("ix_actions_rollout_id_number", "actions", ["rollout_id", "number"])
    op.create_index("ix_actions_scheduled", "actions", ["rollout_id", "number"], **_where(_SCHEDULED))
    op.create_index("uq_actions_rollout_id_device_id", "actions", ["rollout_id", "device_id"], unique=True)
    op.create_index("uq_actions_running", "actions", ["device_id"], unique=True, **_where(_RUNNING))


def _devices() -> None:
    op.create_table(
        "director_sets",
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("action_id", _GUID),
        sa.Column("targets", sa.LargeBinary, nullable=False),
        sa.Column("snapshot", sa.LargeBinary, nullable=False),
        sa.Column("timestamp", sa.LargeBinary, nullable=False),
        sa.Column("renew_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_director_sets"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_director_sets_device_id"),
    )
    op.create_table(
        "installed_images",
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("slot", sa.String(32), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("reported_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "slot", name="pk_installed_images"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_installed_images_device_id"),
    )
    op.create_index("ix_installed_images_slot_sha256", "installed_images", ["slot", "sha256"])
    op.create_table(
        "version_manifests",
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("attack_indicator", sa.String(500), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("received_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_version_manifests"),
        sa.ForeignKeyConstraint(["device_id"], ["devices.device_id"], name="fk_version_manifests_device_id"),
    )


def _leases() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("listening_since", _TIME, nullable=False),
        sa.Column("event_sequence", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def downgrade() -> None:
    """Remove the tables."""
    for table in (
        "leases",
        "version_manifests",
        "installed_images",
        "director_sets",
        "actions",
        "rollout_stages",
        "rollouts",
        "release_images",
        "releases",
        "image_targets",
        "metadata_files",
        "artifacts",
    ):
        op.drop_table(table)
