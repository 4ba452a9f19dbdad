"""Tables of learned states: each device's newest backup, and what operators ordered."""

from sqlalchemy import BigInteger, Column, ForeignKey, Index, Integer, LargeBinary, String, Table

from service.adapters.database.schema import DEVICE_ID_TYPE, GUID_TYPE, SEQUENCE_TYPE, UtcDateTime, metadata
from service.adapters.database.update_tables import SHA256_TYPE, STATE_TYPE

learned_states = Table(
    "learned_states",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), primary_key=True),
    Column("core", String(16), primary_key=True),
    Column("component_id", GUID_TYPE, nullable=False),
    Column("layout_sha256", SHA256_TYPE, nullable=False),
    Column("template_sha256", SHA256_TYPE, nullable=False),
    Column("windows", BigInteger, nullable=False),
    Column("prototypes", Integer, nullable=False),
    Column("sha256", SHA256_TYPE, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("content", LargeBinary, nullable=False),
)

learned_orders = Table(
    "learned_orders",
    metadata,
    Column("number", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("order_id", GUID_TYPE, nullable=False, unique=True),
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), nullable=False),
    Column("core", String(16), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("source_device_id", DEVICE_ID_TYPE),
    Column("sha256", SHA256_TYPE),
    Column("content", LargeBinary),  # until it is settled
    Column("ordered_by", String(64), nullable=False),
    Column("ordered_at", UtcDateTime, nullable=False),
    Column("state", STATE_TYPE, nullable=False),
    Column("detail", String(500), nullable=False),
    Column("settled_at", UtcDateTime, index=True),
    Index(None, "device_id", "number"),
    sqlite_autoincrement=True,
)
