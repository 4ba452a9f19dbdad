"""Tables of operators, products, devices, attestation, audit and events, and of the gateway's control data."""

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
    true,
)

from service.adapters.database.schema import (
    DEVICE_ID_TYPE,
    GUID_TYPE,
    JSON_TYPE,
    SEQUENCE_TYPE,
    UtcDateTime,
    metadata,
)

operators = Table(
    "operators",
    metadata,
    Column("operator_id", GUID_TYPE, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("token_sha256", String(64), unique=True),
    Column("from_file", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

products = Table(
    "products",
    metadata,
    Column("product_id", GUID_TYPE, primary_key=True),
    Column("name", String(50), nullable=False, unique=True),
    Column("description", String(500), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("est", Boolean, nullable=False, default=True, server_default=true()),
)

device_groups = Table(
    "device_groups",
    metadata,
    Column("group_id", GUID_TYPE, primary_key=True),
    Column("product_id", GUID_TYPE, ForeignKey("products.product_id"), nullable=False),
    Column("name", String(50), nullable=False),
    Column("description", String(500), nullable=False),
    Column("os_feed", String(16), nullable=False),
    Column("update_policy", String(32), nullable=False),
    Column("allow_crash_dumps", Boolean, nullable=False),
    Column("data_boundary", String(16), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("version", Integer, nullable=False),
    Column("attestation", JSON_TYPE, nullable=False, default=dict, server_default="{}"),
    UniqueConstraint("product_id", "name"),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, primary_key=True),
    Column("group_id", GUID_TYPE, ForeignKey("device_groups.group_id"), nullable=False),
    Column("state", String(16), nullable=False),  # DeviceState, for filters and counts
    Column("identity_key", LargeBinary, nullable=False),
    Column("idevid_chain", Text, nullable=False),
    Column("claimed_at", UtcDateTime, nullable=False),
    Column("claimed_by", String(64), nullable=False),
    Column("activated_at", UtcDateTime),
    Column("blocked_at", UtcDateTime),
    Column("blocked_reason", String(500), nullable=False),
    Column("last_seen_at", UtcDateTime),
    Column("certificate_serial", String(64)),
    Column("certificate_key_sha256", String(64)),
    Column("certificate_not_after", UtcDateTime),
    Column("voucher", LargeBinary),
    Column("version", Integer, nullable=False),
    Column("access", String(16)),  # Access of the LDevID in force
    Column("evidence", LargeBinary),  # last token
    Column("evidence_at", UtcDateTime),
    Column("boot_seeds", JSON_TYPE, nullable=False, default=list, server_default="[]"),  # hex, newest last
    Column("clone_suspected_at", UtcDateTime),
    Column("clone_detail", String(500), nullable=False, default="", server_default=""),
    Column("decommissioned_at", UtcDateTime),
    Column("moved_at", UtcDateTime),
    Column("moved_to", String(200), nullable=False, default="", server_default=""),  # name of a catalog
    Column("idevid_serial", String(64), nullable=False, default="", server_default="", index=True),  # hex
    Index(None, "group_id", "device_id"),
    Index(None, "state", "device_id"),
    Index(
        "ix_devices_suspected",
        "device_id",
        sqlite_where=text("clone_suspected_at IS NOT NULL"),
        postgresql_where=text("clone_suspected_at IS NOT NULL"),
    ),
)

device_attributes = Table(
    "device_attributes",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("value", String(100), nullable=False),
    Index(None, "name", "value", "device_id"),  # all that "which devices have this" reads
)

# Group ids, and places as `name=value`; kept by triggers, see migration 0024.
device_counts = Table(
    "device_counts",
    metadata,
    Column("counted", String(160), primary_key=True),
    Column("devices", Integer, nullable=False),
)

device_count_changes = Table(
    "device_count_changes",
    metadata,
    Column("number", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("counted", String(160), nullable=False, index=True),
    Column("devices", Integer, nullable=False),
)

attestation_nonces = Table(
    "attestation_nonces",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, primary_key=True),
    Column("purpose", String(16), primary_key=True),
    Column("nonce", LargeBinary, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

attestations = Table(
    "attestations",
    metadata,
    Column("record_id", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("device_id", DEVICE_ID_TYPE, nullable=False),  # no foreign key: unclaimed devices are refused, too
    Column("accepted", Boolean, nullable=False),
    Column("findings", JSON_TYPE, nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
    Column("times", Integer, nullable=False),
    Column("is_latest", Boolean, nullable=False),
    Column("verdict", String(16), nullable=False, default="", server_default=""),
    Index(None, "device_id", "record_id"),
    Index(
        "ix_attestations_latest",
        "accepted",
        "device_id",
        sqlite_where=text("is_latest"),
        postgresql_where=text("is_latest"),
    ),
    sqlite_autoincrement=True,
)

claim_challenges = Table(
    "claim_challenges",
    metadata,
    Column("challenge", LargeBinary(32), primary_key=True),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
)

claim_uses = Table(
    "claim_uses",
    metadata,
    Column("challenge", LargeBinary(32), primary_key=True),
    Column("device_id", DEVICE_ID_TYPE, primary_key=True),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("entry_id", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("at", UtcDateTime, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject_id", String(200), nullable=False),
    Column("before", JSON_TYPE, nullable=False),
    Column("after", JSON_TYPE, nullable=False),
    Index(None, "subject_id", "entry_id"),
    sqlite_autoincrement=True,
)

events = Table(
    "events",
    metadata,
    Column("sequence", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("type", String(16), nullable=False),
    Column("subject_id", String(200), nullable=False),
    Column("change", String(64), nullable=False),
    Column("at", UtcDateTime, nullable=False, index=True),
    Column("data", JSON_TYPE, nullable=False),
    Index(None, "type", "sequence"),
    sqlite_autoincrement=True,  # a pruned sequence number never comes back
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("operator", String(64), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("request_sha256", String(64), nullable=False),
    Column("reserved_at", UtcDateTime, nullable=False, index=True),
    Column("status", Integer),
    Column("headers", JSON_TYPE, nullable=False),
    Column("body", LargeBinary, nullable=False),
)

subscriptions = Table(
    "subscriptions",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, primary_key=True),
    Column("topic_filter", String(512), primary_key=True),
    Column("qos", Integer, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("command_id", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("device_id", DEVICE_ID_TYPE, nullable=False),
    Column("name", String(64), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False, index=True),
    Column("packet_id", Integer),
    Index(None, "device_id", "command_id"),
    sqlite_autoincrement=True,
)
