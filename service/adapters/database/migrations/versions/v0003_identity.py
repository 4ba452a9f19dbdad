"""Identity: access and evidence of devices, policies, the issuance log, revocations, approvals."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from cryptography import x509
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_JSON = sa.JSON().with_variant(JSONB(), "postgresql")
_TIME = sa.DateTime(timezone=True)
_GUID = sa.String(36)
_DEVICE_ID = sa.String(128)
_SHA256 = sa.String(64)
_PAGE_ROWS = 1_000


def upgrade() -> None:
    """Add columns and make the tables."""
    for column in _device_columns():
        op.add_column("devices", column)
    op.execute("UPDATE devices SET access = 'full' WHERE certificate_serial IS NOT NULL")
    _idevid_serials()
    suspected = sa.text("clone_suspected_at IS NOT NULL")
    op.create_index(
        "ix_devices_suspected", "devices", ["device_id"], sqlite_where=suspected, postgresql_where=suspected
    )
    op.add_column("device_groups", sa.Column("attestation", _JSON, nullable=False, server_default="{}"))
    op.add_column("products", sa.Column("est", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("attestations", sa.Column("verdict", sa.String(16), nullable=False, server_default=""))
    op.execute("UPDATE attestations SET verdict = CASE WHEN accepted THEN 'accepted' ELSE 'refused' END")
    op.add_column("actions", sa.Column("heals", sa.Boolean, nullable=False, server_default=sa.false()))
    op.drop_index("uq_actions_rollout_id_device_id", "actions")
    counted = sa.text("NOT heals")  # a device may heal more than once by what one rollout brought
    op.create_index(
        "uq_actions_rollout_id_device_id",
        "actions",
        ["rollout_id", "device_id"],
        unique=True,
        sqlite_where=counted,
        postgresql_where=counted,
    )
    _nonces()
    _issuance()
    _revocations()
    _approvals()


def _device_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("access", sa.String(16)),
        sa.Column("evidence", sa.LargeBinary),
        sa.Column("evidence_at", _TIME),
        sa.Column("boot_seeds", _JSON, nullable=False, server_default="[]"),
        sa.Column("clone_suspected_at", _TIME),
        sa.Column("clone_detail", sa.String(500), nullable=False, server_default=""),
        sa.Column("decommissioned_at", _TIME),
        sa.Column("moved_at", _TIME),
        sa.Column("moved_to", sa.String(200), nullable=False, server_default=""),
        sa.Column("idevid_serial", sa.String(64), nullable=False, server_default=""),
    )


def _idevid_serials() -> None:
    """Read each device's birth certificate once, so that a revoked serial number finds its device."""
    devices = sa.table("devices", sa.column("device_id"), sa.column("idevid_chain"), sa.column("idevid_serial"))
    connection = op.get_bind()
    changed = sa.update(devices).where(devices.c.device_id == sa.bindparam("id"))
    page = sa.select(devices.c.device_id, devices.c.idevid_chain).order_by(devices.c.device_id).limit(_PAGE_ROWS)
    last = ""
    while rows := connection.execute(page.where(devices.c.device_id > last)).all():
        last = rows[-1].device_id
        serials = [{"id": row.device_id, "serial": _serial(row.idevid_chain)} for row in rows if row.idevid_chain]
        if serials:
            connection.execute(changed.values(idevid_serial=sa.bindparam("serial")), serials)
    op.create_index("ix_devices_idevid_serial", "devices", ["idevid_serial"])


def _serial(chain: str) -> str:
    return f"{x509.load_pem_x509_certificate(chain.encode()).serial_number:x}"


def _nonces() -> None:
    op.drop_table("attestation_nonces")  # they live for minutes: a device asks again
    op.create_table(
        "attestation_nonces",
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("purpose", sa.String(16), nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("device_id", "purpose", name="pk_attestation_nonces"),
    )
    op.create_index("ix_attestation_nonces_expires_at", "attestation_nonces", ["expires_at"])


def _issuance() -> None:
    op.create_table(
        "issuance_log",
        sa.Column("sequence", _SEQUENCE, autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("serial", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("key_sha256", _SHA256, nullable=False),
        sa.Column("certificate_sha256", _SHA256, nullable=False),
        sa.Column("issuer_sha256", _SHA256, nullable=False),
        sa.Column("not_after", _TIME, nullable=False),
        sa.Column("previous_sha256", _SHA256, nullable=False),
        sa.Column("entry_sha256", _SHA256, nullable=False),
        sa.PrimaryKeyConstraint("sequence", name="pk_issuance_log"),
    )
    op.create_index("ix_issuance_log_subject", "issuance_log", ["subject"])
    op.create_index("ix_issuance_log_key_sha256", "issuance_log", ["key_sha256"])
    op.create_index(
        "ix_issuance_log_ldevid_key",
        "issuance_log",
        ["key_sha256"],
        unique=True,
        sqlite_where=sa.text("kind = 'ldevid'"),
        postgresql_where=sa.text("kind = 'ldevid'"),
    )
    op.create_table(
        "issuance_uses",
        sa.Column("issuer_sha256", _SHA256, nullable=False),
        sa.Column("certificates", sa.BigInteger, nullable=False),
        sa.Column("not_after", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("issuer_sha256", name="pk_issuance_uses"),
    )
    op.create_table(
        "issuance_head",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("entry_sha256", _SHA256, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_issuance_head"),
    )
    op.execute(f"INSERT INTO issuance_head (id, sequence, entry_sha256) VALUES (1, 0, '{'0' * 64}')")  # noqa: S608


def _revocations() -> None:
    op.create_table(
        "revocations",
        sa.Column("issuer_key_id", sa.String(64), nullable=False),
        sa.Column("serial", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("revoked_at", _TIME, nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("issuer_key_id", "serial", name="pk_revocations"),
    )
    op.create_index("ix_revocations_subject", "revocations", ["subject"])
    op.create_table(
        "crls",
        sa.Column("issuer_key_id", sa.String(64), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.Column("this_update", _TIME, nullable=False),
        sa.Column("next_update", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("issuer_key_id", name="pk_crls"),
    )


def _approvals() -> None:
    op.create_table(
        "approvals",
        sa.Column("approval_id", _GUID, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("subject_id", sa.String(200), nullable=False),
        sa.Column("parameters", _JSON, nullable=False),
        sa.Column("requested_by", sa.String(64), nullable=False),
        sa.Column("requested_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("decided_by", sa.String(64)),
        sa.Column("decided_at", _TIME),
        sa.PrimaryKeyConstraint("approval_id", name="pk_approvals"),
    )
    op.create_index("ix_approvals_state", "approvals", ["state", "requested_at"])
    pending = sa.text("state = 'pending'")
    op.create_index(
        "uq_approvals_pending",
        "approvals",
        ["action", "subject_id"],
        unique=True,
        sqlite_where=pending,
        postgresql_where=pending,
    )


def downgrade() -> None:
    """Remove what was added."""
    for table in ("approvals", "crls", "revocations", "issuance_head", "issuance_uses", "issuance_log"):
        op.drop_table(table)
    op.drop_table("attestation_nonces")
    op.create_table(
        "attestation_nonces",
        sa.Column("device_id", _DEVICE_ID, nullable=False),
        sa.Column("nonce", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("device_id", name="pk_attestation_nonces"),
    )
    op.create_index("ix_attestation_nonces_expires_at", "attestation_nonces", ["expires_at"])
    op.execute("DELETE FROM actions WHERE heals")
    op.drop_index("uq_actions_rollout_id_device_id", "actions")
    op.create_index("uq_actions_rollout_id_device_id", "actions", ["rollout_id", "device_id"], unique=True)
    op.drop_column("actions", "heals")
    op.drop_column("attestations", "verdict")
    op.drop_column("products", "est")
    op.drop_column("device_groups", "attestation")
    op.drop_index("ix_devices_idevid_serial", "devices")
    op.drop_index("ix_devices_suspected", "devices")
    for column in _device_columns():
        op.drop_column("devices", column.name)
