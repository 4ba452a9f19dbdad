"""Tables of the signed supply chain: targets by name, documents, bills of materials, patches, the transparency log."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, String, Table, Text, text

from service.adapters.database.schema import SEQUENCE_TYPE, UtcDateTime, metadata
from service.adapters.database.update_tables import ROLE_TYPE, SHA256_TYPE, STATE_TYPE, TARGET_TYPE

NAME_KEY_TYPE = String(600)  # casefolded: "ŉ" becomes two letters, and no letter more than three

# Every target of the Image repository in force, whichever role lists it: a name belongs to one role.
metadata_targets = Table(
    "metadata_targets",
    metadata,
    Column("path", TARGET_TYPE, primary_key=True),
    Column("role", ROLE_TYPE, nullable=False, index=True),
    Column("sha256", SHA256_TYPE, nullable=False, index=True),
    Column("length", BigInteger, nullable=False),
)

documents = Table(
    "documents",
    metadata,
    Column("number", SEQUENCE_TYPE, primary_key=True, autoincrement=True),  # the order in which they came into force
    Column("path", TARGET_TYPE, nullable=False, unique=True),
    Column("kind", String(16), nullable=False),
    Column("subject", String(64), nullable=False),  # image id, or name of a release
    Column("sha256", SHA256_TYPE, nullable=False),
    Column("length", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index(None, "subject", "kind"),
    sqlite_autoincrement=True,
)

bom_components = Table(
    "bom_components",
    metadata,
    Column("number", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("sha256", SHA256_TYPE, nullable=False, index=True),  # of the image package
    Column("type", String(32), nullable=False),
    Column("name", String(200), nullable=False),
    Column("version", String(100), nullable=False),
    Column("purl", String(300), nullable=False),
    Column("name_key", NAME_KEY_TYPE, nullable=False),  # the name as it is looked for
    Column("package", String(300), nullable=False, index=True),  # the purl without version and what follows it
    Index(None, "name_key", "version"),
    sqlite_autoincrement=True,
)

# What vulnerabilities mean to a release's components; of two statements about the same, the newer one counts.
vex_statements = Table(
    "vex_statements",
    metadata,
    Column("number", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("release", String(64), nullable=False, index=True),
    Column("sha256", SHA256_TYPE, nullable=False),  # of the document
    Column("vulnerability", String(64), nullable=False, index=True),
    Column("name", String(200), nullable=False),
    Column("version", String(100), nullable=False),
    Column("purl", String(300), nullable=False),
    Column("state", String(32), nullable=False),
    Column("justification", String(40), nullable=False),
    Column("detail", Text, nullable=False),
    Column("made_at", UtcDateTime, nullable=False),
    sqlite_autoincrement=True,
)

_QUEUED = text("state = 'queued'")

deltas = Table(
    "deltas",
    metadata,
    Column("from_sha256", SHA256_TYPE, primary_key=True),
    Column("to_sha256", SHA256_TYPE, primary_key=True),
    Column("state", STATE_TYPE, nullable=False),
    Column("format", String(32), nullable=False),
    Column("patch_sha256", SHA256_TYPE),
    Column("patch_length", BigInteger),
    Column("full_length", BigInteger, nullable=False),
    Column("reason", String(500), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Index("ix_deltas_queued", "created_at", sqlite_where=_QUEUED, postgresql_where=_QUEUED),
    Index(None, "to_sha256"),
)

log_entries = Table(
    "log_entries",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),  # from 0: the leaf's index
    Column("kind", String(16), nullable=False),
    Column("name", TARGET_TYPE, nullable=False, index=True),  # of the image's target; repository/version of a root
    Column("subject", SHA256_TYPE, nullable=False, index=True),  # SHA-256 of the image or root
    Column("entry", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Index("uq_log_entries_leaf_hash", "leaf_hash", unique=True),
)

# Hash tiles (C2SP tlog-tiles): at most 256 hashes each, the last of a level may be partial.
log_tiles = Table(
    "log_tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("content", LargeBinary, nullable=False),
)

log_checkpoints = Table(
    "log_checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("content", Text, nullable=False),  # a signed note
    Column("created_at", UtcDateTime, nullable=False),
)
