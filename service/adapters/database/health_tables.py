"""Tables of models' health: each core's last window and past, and which devices gates have counted."""

from sqlalchemy import JSON, Column, ForeignKey, String, Table
from sqlalchemy.dialects.postgresql import JSONB

from service.adapters.database.schema import DEVICE_ID_TYPE, GUID_TYPE, JSON_TYPE, UtcDateTime, metadata
from service.adapters.database.update_tables import STATE_TYPE

model_health = Table(
    "model_health",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), primary_key=True),
    Column("core", String(16), primary_key=True),
    Column("received_at", UtcDateTime, nullable=False, index=True),
    Column("last", JSON_TYPE, nullable=False),
    Column("past", JSON_TYPE, nullable=False),
    Column(
        "before", JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
    ),  # of the model before
    Column("counted", JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")),
)

counted_devices = Table(
    "counted_devices",
    metadata,
    Column("rollout_id", GUID_TYPE, ForeignKey("rollouts.rollout_id"), primary_key=True),
    Column("gate", String(32), primary_key=True),
    Column("device_id", DEVICE_ID_TYPE, primary_key=True),
    Column("arm", STATE_TYPE, nullable=False),
    Column("what", STATE_TYPE, nullable=False),
    Column("detail", String(500), nullable=False),
    Column("at", UtcDateTime, nullable=False),
)
