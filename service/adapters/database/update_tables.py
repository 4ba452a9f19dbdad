"""Tables of artifacts, metadata, releases, rollouts, actions and the Director."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    false,
    text,
)

from service.adapters.database.schema import (
    DEVICE_ID_TYPE,
    GUID_TYPE,
    JSON_TYPE,
    SEQUENCE_TYPE,
    UtcDateTime,
    metadata,
)

SHA256_TYPE = String(64)
TARGET_TYPE = String(300)
SLOT_TYPE = String(32)
STATE_TYPE = String(16)
PLACE_TYPE = String(160)  # an attribute's name and value
ROLE_TYPE = String(64)  # delegated roles have names of their own

artifacts = Table(
    "artifacts",
    metadata,
    Column("sha256", SHA256_TYPE, primary_key=True),
    Column("length", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("facts", JSON_TYPE, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(64), nullable=False),
)

# Files of the Image repository and of the Director's root, every version that a device may still ask for.
metadata_files = Table(
    "metadata_files",
    metadata,
    Column("repository", String(16), primary_key=True),
    Column("role", ROLE_TYPE, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("content", LargeBinary, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)

image_targets = Table(
    "image_targets",
    metadata,
    Column("path", TARGET_TYPE, primary_key=True),
    Column("sha256", SHA256_TYPE, nullable=False, index=True),
    Column("length", BigInteger, nullable=False),
    Column("custom", JSON_TYPE, nullable=False),
    Column("image_id", GUID_TYPE, unique=True),
    Column("since_version", BigInteger, nullable=False),
    Column("component_id", GUID_TYPE, nullable=False, index=True, server_default=""),
)

releases = Table(
    "releases",
    metadata,
    Column("release_id", GUID_TYPE, primary_key=True),
    Column("name", String(64), nullable=False, unique=True),
    Column("counter", BigInteger, nullable=False, unique=True),
    Column("target", TARGET_TYPE, nullable=False),
    Column("factory", Boolean, nullable=False),
    Column("goes_back", JSON_TYPE, nullable=False, default=dict, server_default="{}"),
    Column("way_back_of", String(64)),  # name of the release that it undoes
    Column("support_ends", UtcDateTime),
    Column("must_pass", Boolean, nullable=False, default=False, server_default=false()),
    Column("after", JSON_TYPE, nullable=False, default=dict, server_default="{}"),  # by slot, what must be passed
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(64), nullable=False),
)

release_images = Table(
    "release_images",
    metadata,
    Column("release_id", GUID_TYPE, ForeignKey("releases.release_id"), primary_key=True),
    Column("slot", SLOT_TYPE, primary_key=True),
    Column("target", TARGET_TYPE, ForeignKey("image_targets.path"), nullable=False),
    Column("sha256", SHA256_TYPE, nullable=False),
    Column("length", BigInteger, nullable=False),
    Index(None, "sha256"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("number", SEQUENCE_TYPE, primary_key=True, autoincrement=True),  # the order of creation
    Column("rollout_id", GUID_TYPE, nullable=False, unique=True),
    Column("release_id", GUID_TYPE, ForeignKey("releases.release_id"), nullable=False),
    Column("group_id", GUID_TYPE, ForeignKey("device_groups.group_id"), nullable=False),
    Column("state", STATE_TYPE, nullable=False, index=True),
    Column("halted_reason", String(500), nullable=False),
    Column("plan", Text, nullable=False, server_default=""),  # canonical JSON
    Column("resumed_at", UtcDateTime),
    Column("question", String(500), nullable=False, server_default=""),
    Column("paced_at", UtcDateTime),
    Column("deadline_at", UtcDateTime),
    Column("retry_cursor", BigInteger),  # last action that a retry has looked at; None without one
    Column("held_until", UtcDateTime),  # when the first held action's time comes
    Column("undoes", GUID_TYPE, index=True),  # id of the rollout whose devices it brings back
    Column("is_undone", Boolean, nullable=False, server_default=false()),
    Column("bucket_digits", Integer, nullable=False, server_default="0"),
    Column("is_released", Boolean, nullable=False, server_default=false()),
    Column("look_at", UtcDateTime),  # when the worker must look at it, if ever
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(64), nullable=False),
    Column("version", Integer, nullable=False),
    Index(
        "ix_rollouts_look_at",
        "look_at",
        sqlite_where=text("look_at IS NOT NULL"),
        postgresql_where=text("look_at IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

rollout_stages = Table(
    "rollout_stages",
    metadata,
    Column("rollout_id", GUID_TYPE, ForeignKey("rollouts.rollout_id"), primary_key=True),
    Column("stage_index", Integer, primary_key=True),
    Column("plan_count", Integer),
    Column("plan_percent", Float),
    Column("threshold", BigInteger),
    Column("planned", Integer),
    Column("is_capped", Boolean),
    Column("is_settled", Boolean),
    Column("walked", BigInteger, nullable=False, server_default="-1"),
    Column("state", STATE_TYPE, nullable=False),
    Column("is_open", Boolean, nullable=False),
    Column("soak_ends_at", UtcDateTime),
    Column("reason", String(500), nullable=False),
    Column("scheduled", Integer, nullable=False),
    Column("in_progress", Integer, nullable=False),
    Column("succeeded", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("cancelled", Integer, nullable=False),
    Column("reverted", Integer, nullable=False),
    Column("ruled", Integer, nullable=False),
    Column("exposed", Integer, nullable=False),
    Column("proved", Integer, nullable=False, server_default="0"),
    Column("again", Integer, nullable=False, server_default="0"),
    Column("causes", JSON_TYPE, nullable=False, server_default="{}"),
    Column("downloaded", Integer, nullable=False, server_default="0"),
    Column("compared", Integer, nullable=False, server_default="0"),
    Column("agreed", Integer, nullable=False, server_default="0"),
    Column("disagreed", Integer, nullable=False, server_default="0"),
    Column("broke", Integer, nullable=False, server_default="0"),
    Column("is_approved", Boolean, nullable=False, server_default=false()),
    Column("held", Integer, nullable=False, server_default="0"),
)

rollout_verdicts = Table(
    "rollout_verdicts",
    metadata,
    Column("number", SEQUENCE_TYPE, primary_key=True, autoincrement=True),
    Column("rollout_id", GUID_TYPE, ForeignKey("rollouts.rollout_id"), nullable=False),
    Column("decided_at", UtcDateTime, nullable=False),
    Column("decision", STATE_TYPE, nullable=False),
    Column("stage_index", Integer),
    Column("gate", String(32), nullable=False),
    Column("reason", String(500), nullable=False),
    Column("figures", JSON_TYPE, nullable=False),
    Index(None, "rollout_id", "number"),
    sqlite_autoincrement=True,
)

# What gates keep beside the counts; never reset.
rollout_evidence = Table(
    "rollout_evidence",
    metadata,
    Column("rollout_id", GUID_TYPE, ForeignKey("rollouts.rollout_id"), primary_key=True),
    Column("gate", String(32), primary_key=True),
    Column("state", JSON_TYPE, nullable=False),
)

# The first devices of each site, in rollouts whose gates judge by site.
rollout_sites = Table(
    "rollout_sites",
    metadata,
    Column("rollout_id", GUID_TYPE, ForeignKey("rollouts.rollout_id"), primary_key=True),
    Column("attribute", String(40), primary_key=True),
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), primary_key=True),
    Column("site", String(130), nullable=False),
    Column("place", Integer, nullable=False),
    Column("causes", JSON_TYPE, nullable=False),
    Column("is_settled", Boolean, nullable=False),
    Column("is_confirmed", Boolean, nullable=False),
    Index("uq_rollout_sites_place", "rollout_id", "attribute", "site", "place", unique=True),
)

_UNFINISHED = text("due_at IS NOT NULL")
RUNNING = text("state IN ('offered', 'downloading', 'downloaded', 'shadowing', 'installing', 'trial')")
_SCHEDULED = text("state = 'scheduled'")
_COUNTED = text("NOT heals")
_OFFERED = text("offered")
_COMPARED = text("agrees IS NOT NULL")
_BLAMED = text("blames IS NOT NULL")
_ENDED_BADLY = text("state IN ('failed', 'reverted', 'timed-out', 'cancelled')")
_HOLDING = text("state = 'scheduled' AND hold IS NOT NULL")
_HELD = text("state = 'scheduled' AND not_before IS NOT NULL AND hold <> 'retry'")
AT_PLACE = text("state = 'scheduled' AND place <> ''")

actions = Table(
    "actions",
    metadata,
    Column("number", SEQUENCE_TYPE, primary_key=True, autoincrement=True),  # the order of a device's queue
    Column("action_id", GUID_TYPE, nullable=False, unique=True),
    Column("rollout_id", GUID_TYPE, ForeignKey("rollouts.rollout_id"), nullable=False),
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), nullable=False),
    Column("stage_index", Integer, nullable=False),
    Column("state", STATE_TYPE, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("cause", STATE_TYPE),
    Column("detail", String(500), nullable=False),
    Column("offered", Boolean, nullable=False),
    Column("heals", Boolean, nullable=False, default=False, server_default=false()),
    Column("past", JSON_TYPE, nullable=False, default=list, server_default="[]"),  # how earlier attempts ended
    Column("blames", String(200)),  # causes of all its failures, joined by +; None if it has never failed
    Column("failed_at", UtcDateTime),  # first
    Column("not_before", UtcDateTime),
    Column("order", String(16), nullable=False, server_default="install"),
    Column("shadow", JSON_TYPE),
    Column("agrees", Boolean),
    Column("created_at", UtcDateTime, nullable=False),
    Column("progressed_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime),  # None once final
    Column("hold", STATE_TYPE),
    Column("place", PLACE_TYPE, nullable=False, server_default=""),
    Column("deferrals", Integer, nullable=False, server_default="0"),
    Index(
        "uq_actions_rollout_id_device_id",
        "rollout_id",
        "device_id",
        unique=True,
        sqlite_where=_COUNTED,
        postgresql_where=_COUNTED,
    ),
    # Whom a rollout gave its release, by healing, too.
    Index("ix_actions_exposed", "rollout_id", "device_id", sqlite_where=_OFFERED, postgresql_where=_OFFERED),
    Index("ix_actions_rollout_id_number", "rollout_id", "number"),
    Index("ix_actions_device_id_number", "device_id", "number"),
    Index("ix_actions_due_at", "due_at", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),
    # Which devices of a rollout have failed, by cause.
    Index("ix_actions_blames", "rollout_id", "blames", "failed_at", sqlite_where=_BLAMED, postgresql_where=_BLAMED),
    # What the devices of a rollout have found of a model in shadow.
    Index("ix_actions_agrees", "rollout_id", "agrees", "number", sqlite_where=_COMPARED, postgresql_where=_COMPARED),
    Index("ix_actions_ended_badly", "rollout_id", "number", sqlite_where=_ENDED_BADLY, postgresql_where=_ENDED_BADLY),
    Index("ix_actions_held", "rollout_id", "not_before", sqlite_where=_HELD, postgresql_where=_HELD),
    Index("ix_actions_hold", "rollout_id", "hold", "number", sqlite_where=_HOLDING, postgresql_where=_HOLDING),
    Index("ix_actions_place", "place", "number", sqlite_where=AT_PLACE, postgresql_where=AT_PLACE),
    Index("ix_actions_scheduled", "rollout_id", "number", sqlite_where=_SCHEDULED, postgresql_where=_SCHEDULED),
    # A device works on one action at a time; others of its rollouts wait in line.
    Index("uq_actions_running", "device_id", unique=True, sqlite_where=RUNNING, postgresql_where=RUNNING),
    sqlite_autoincrement=True,
)

# Where devices are at an update: what each belonged to when it began, and since.
places_at_work = Table(
    "places_at_work",
    metadata,
    Column("place", PLACE_TYPE, primary_key=True),
    Column("action_id", GUID_TYPE, primary_key=True),
    Column("device_id", DEVICE_ID_TYPE, nullable=False),
    Index(None, "action_id"),
)

# The last metadata that the Director signed for each device; a row is never removed, so that versions only rise.
director_sets = Table(
    "director_sets",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("action_id", GUID_TYPE),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("targets", LargeBinary, nullable=False),
    Column("snapshot", LargeBinary, nullable=False),
    Column("timestamp", LargeBinary, nullable=False),
    Column("root_version", BigInteger, nullable=False, server_default="1"),
    Column("renew_at", UtcDateTime, nullable=False),
    Column("order", String(16), nullable=False, server_default="install"),
)

installed_images = Table(
    "installed_images",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), primary_key=True),
    Column("slot", SLOT_TYPE, primary_key=True),
    Column("sha256", SHA256_TYPE, nullable=False),
    Column("reported_at", UtcDateTime, nullable=False),
    Index(None, "slot", "sha256", "device_id"),  # all that "which devices run this" reads
    Index(None, "slot", "sha256"),  # all that "how many run this" reads: an entry per image and not per device
)

version_manifests = Table(
    "version_manifests",
    metadata,
    Column("device_id", DEVICE_ID_TYPE, ForeignKey("devices.device_id"), primary_key=True),
    Column("counter", BigInteger, nullable=False),
    Column("attack_indicator", String(500), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("listening_since", UtcDateTime, nullable=False),
    Column("listening", JSON_TYPE),
    Column("event_sequence", BigInteger, nullable=False),
)
