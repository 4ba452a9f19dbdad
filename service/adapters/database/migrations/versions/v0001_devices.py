"""Operators, products, devices, attestation, audit, events, and the gateway's control data."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_GUID = sa.String(36)
_DEVICE_ID = sa.String(128)


def upgrade() -> None:
    """Make the tables."""
    _operators()
    _products()
    _devices()
    _attestations()
    _claims()
    _audit_log()
    _events()
    _idempotency_keys()
    _gateway()


def _operators() -> None:
    op.create_table(
        "operators",
        sa.Column("operator_id", _GUID, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("token_sha256", sa.String(64)),
        sa.Column("from_file", sa.Boolean, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("operator_id", name="pk_operators"),
        sa.UniqueConstraint("name", name="uq_operators_name"),
        sa.UniqueConstraint("token_sha256", name="uq_operators_token_sha256"),
    )


def _products() -> None:
    op.create_table(
        "products",
        sa.Column("product_id", _GUID, nullable=False),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("product_id", name="pk_products"),
        sa.UniqueConstraint("name", name="uq_products_name"),
    )
    op.create_table(
        "device_groups",
        sa.Column("group_id", _GUID, nullable=False),
        sa.Column("product_id", _GUID, nullable=False),
        sa.Column("name", sa.String(50), nullable=False),
        sa.Column("description", sa.String(500), nullable=False),
        sa.Column("os_feed", sa.String(16), nullable=False),
        sa.Column("update_policy", sa.String(32), nullable=False),
        sa.Column("allow_crash_dumps", sa.Boolean, nullable=False),
        sa.Column("data_boundary", sa.String(16), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("group_id", name="pk_device_groups"),
        sa.ForeignKeyConstraint(["product_id"], ["products.product_id"], name="fk_device_groups_product_id"),
        sa.UniqueConstraint("product_id", "name", name="uq_device_groups_product_id_name"),
    )


def _devices() -> None:
    op.create_table(
        "devices",
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("group_id", _GUID, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("identity_key", sa.LargeBinary, nullable=False),
        sa.Column("idevid_chain", sa.Text, nullable=False),
        sa.Column("claimed_at", _TIME, nullable=False),
        sa.Column("claimed_by", sa.String(64), nullable=False),
        sa.Column("activated_at", _TIME),
        sa.Column("blocked_at", _TIME),
        sa.Column("blocked_reason", sa.String(500), nullable=False),
        sa.Column("last_seen_at", _TIME),
        sa.Column("certificate_serial", sa.String(64)),
        sa.Column("certificate_key_sha256", sa.String(64)),
        sa.Column("certificate_not_after", _TIME),
        sa.Column("voucher", sa.LargeBinary),
        sa.Column("version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_devices"),
        sa.ForeignKeyConstraint(["group_id"], ["device_groups.group_id"], name="fk_devices_group_id"),
    )
    op.create_index("ix_devices_group_id_device_id", "devices", ["group_id", "device_id"])
    op.create_index("ix_devices_state_device_id", "devices", ["state", "device_id"])


def _attestations() -> None:
    op.create_table(
        "attestation_nonces",
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_attestation_nonces"),
    )
    op.create_index("ix_attestation_nonces_expires_at", "attestation_nonces", ["expires_at"])
    op.create_table(
        "attestations",
        sa.Column("record_id", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("accepted", sa.Boolean, nullable=False),
        sa.Column("findings", _JSON, nullable=False),
        sa.Column("since", _TIME, nullable=False),
        sa.Column("last_at", _TIME, nullable=False),
        sa.Column("times", sa.Integer, nullable=False),
        sa.Column("is_latest", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("record_id", name="pk_attestations"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_attestations_device_id_record_id", "attestations", ["device_id", "record_id"])
    latest = sa.text("is_latest")
    op.create_index(
        "ix_attestations_latest",
        "attestations",
        ["accepted", "device_id"],
        sqlite_where=latest,
        postgresql_where=latest,
    )


def _claims() -> None:
    op.create_table(
        "claim_challenges",
        sa.Column("challenge", sa.LargeBinary(32), nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("challenge", name="pk_claim_challenges"),
    )
    op.create_index("ix_claim_challenges_expires_at", "claim_challenges", ["expires_at"])
    op.create_table(
        "claim_uses",
        sa.Column("challenge", sa.LargeBinary(32), nullable=False),
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.PrimaryKeyConstraint("challenge", "device_id", name="pk_claim_uses"),
    )


def _audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("entry_id", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject_id", sa.String(200), nullable=False),
        sa.Column("before", _JSON, nullable=False),
        sa.Column("after", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("entry_id", name="pk_audit_log"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_log_subject_id_entry_id", "audit_log", ["subject_id", "entry_id"])
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


def _events() -> None:
    op.create_table(
        "events",
        sa.Column("sequence", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("subject_id", sa.String(200), nullable=False),
        sa.Column("change", sa.String(64), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_events"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_at", "events", ["at"])


def _idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("operator", sa.String(64), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("reserved_at", _TIME, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("headers", _JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("operator", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_reserved_at", "idempotency_keys", ["reserved_at"])


def _gateway() -> None:
    op.create_table(
        "subscriptions",
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("topic_filter", sa.String(512), nullable=False),
        sa.Column("qos", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "topic_filter", name="pk_subscriptions"),
    )
    op.create_table(
        "commands",
        sa.Column("command_id", _SEQUENCE, autoincrement=True, nullable=False),
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("packet_id", sa.Integer),
        sa.PrimaryKeyConstraint("command_id", name="pk_commands"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_commands_expires_at", "commands", ["expires_at"])
    op.create_index("ix_commands_device_id_command_id", "commands", ["device_id", "command_id"])


# The audit log refuses changes even to who holds the database connection.
_APPEND_ONLY = {
    "sqlite": [
        f"CREATE TRIGGER audit_log_no_{verb} BEFORE {verb.upper()} ON audit_log "
        "BEGIN SELECT RAISE(ABORT, 'audit_log: append-only'); END"
        for verb in ("update", "delete")
    ],
    "postgresql": [
        """CREATE FUNCTION audit_log_append_only() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE EXCEPTION 'audit_log: append-only'; END $$""",
        """CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
           FOR EACH STATEMENT EXECUTE FUNCTION audit_log_append_only()""",
    ],
}


def downgrade() -> None:
    """Remove the tables."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER audit_log_append_only ON audit_log")
        op.execute("DROP FUNCTION audit_log_append_only")
    for table in (
        "commands",
        "subscriptions",
        "idempotency_keys",
        "events",
        "audit_log",
        "claim_uses",
        "claim_challenges",
        "attestations",
        "attestation_nonces",
        "devices",
        "device_groups",
        "products",
        "operators",
    ):
        op.drop_table(table)
