"""Tables of issued and revoked certificates, and of actions that wait for a second person."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, text

from service.adapters.database.schema import GUID_TYPE, JSON_TYPE, SEQUENCE_TYPE, UtcDateTime, metadata

_SHA256_TYPE = String(64)  # hex

issuance_log = Table(
    "issuance_log",
    metadata,
    Column("sequence", SEQUENCE_TYPE, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("serial", String(64), nullable=False),
    Column("subject", String(200), nullable=False, index=True),
    Column("key_sha256", _SHA256_TYPE, nullable=False, index=True),
    Column("certificate_sha256", _SHA256_TYPE, nullable=False),
    Column("issuer_sha256", _SHA256_TYPE, nullable=False),
    Column("not_after", UtcDateTime, nullable=False),
    Column("previous_sha256", _SHA256_TYPE, nullable=False),
    Column("entry_sha256", _SHA256_TYPE, nullable=False),
    Index(  # a key makes one operational certificate
        "ix_issuance_log_ldevid_key",
        "key_sha256",
        unique=True,
        sqlite_where=text("kind = 'ldevid'"),
        postgresql_where=text("kind = 'ldevid'"),
    ),
)

issuance_head = Table(
    "issuance_head",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),  # one row, 1
    Column("sequence", BigInteger, nullable=False),
    Column("entry_sha256", _SHA256_TYPE, nullable=False),
)

issuance_uses = Table(  # the log by issuer, LDevIDs alone: counting it would read it whole
    "issuance_uses",
    metadata,
    Column("issuer_sha256", _SHA256_TYPE, primary_key=True),
    Column("certificates", BigInteger, nullable=False),
    Column("not_after", UtcDateTime, nullable=False),  # of the one that ends last
)

revocations = Table(
    "revocations",
    metadata,
    Column("issuer_key_id", String(64), primary_key=True),  # subject key identifier, hex
    Column("serial", String(64), primary_key=True),
    Column("subject", String(200), nullable=False, index=True),
    Column("revoked_at", UtcDateTime, nullable=False),
    Column("reason", String(32), nullable=False),
)

crls = Table(
    "crls",
    metadata,
    Column("issuer_key_id", String(64), primary_key=True),  # subject key identifier, hex
    Column("number", BigInteger, nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("this_update", UtcDateTime, nullable=False),
    Column("next_update", UtcDateTime, nullable=False),
)

approvals = Table(
    "approvals",
    metadata,
    Column("approval_id", GUID_TYPE, primary_key=True),
    Column("action", String(32), nullable=False),
    Column("subject_id", String(200), nullable=False),
    Column("parameters", JSON_TYPE, nullable=False),
    Column("requested_by", String(64), nullable=False),
    Column("requested_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("decided_by", String(64)),
    Column("decided_at", UtcDateTime),
    Index("ix_approvals_state", "state", "requested_at"),
    Index(  # of two who ask for the same at once, one does
        "uq_approvals_pending",
        "action",
        "subject_id",
        unique=True,
        sqlite_where=text("state = 'pending'"),
        postgresql_where=text("state = 'pending'"),
    ),
)
