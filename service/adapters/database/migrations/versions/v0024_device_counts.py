"""How many devices a group holds that could take a release, and how many belong to a place, kept by the database.

Triggers note each change; nothing waits for a common row. What was noted is summed up as the worker goes by.
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_ENROLLED = "('active', 'quarantined', 'refused')"
_NOTE = "INSERT INTO device_count_changes (counted, devices)"
_OLD_GROUP = f"{_NOTE} SELECT OLD.group_id, -1 WHERE OLD.state IN {_ENROLLED};"
_NEW_GROUP = f"{_NOTE} SELECT NEW.group_id, 1 WHERE NEW.state IN {_ENROLLED};"
_OLD_PLACE = f"{_NOTE} VALUES (OLD.name || '=' || OLD.value, -1);"
_NEW_PLACE = f"{_NOTE} VALUES (NEW.name || '=' || NEW.value, 1);"
_OTHER_GROUP = f"OLD.group_id <> NEW.group_id OR (OLD.state IN {_ENROLLED}) <> (NEW.state IN {_ENROLLED})"
_OTHER_PLACE = "OLD.name <> NEW.name OR OLD.value <> NEW.value"
_WATCHED = (  # table, columns, what leaves, what comes, when an update changes a count
    ("devices", "group_id, state", _OLD_GROUP, _NEW_GROUP, _OTHER_GROUP),
    ("device_attributes", "name, value", _OLD_PLACE, _NEW_PLACE, _OTHER_PLACE),
)
_COUNT_GROUPS = (
    "INSERT INTO device_counts (counted, devices)"
    " SELECT group_id, count(*) FROM devices WHERE state IN ('active', 'quarantined', 'refused') GROUP BY group_id"
)
_COUNT_PLACES = (
    "INSERT INTO device_counts (counted, devices)"
    " SELECT name || '=' || value, count(*) FROM device_attributes GROUP BY name, value"
)

_LOCK_OUT_WRITERS = """
DO $$ BEGIN LOOP
  BEGIN
    LOCK TABLE device_attributes IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE devices IN SHARE ROW EXCLUSIVE MODE NOWAIT;
    EXIT;
  EXCEPTION WHEN lock_not_available THEN NULL;
  END;
  BEGIN
    LOCK TABLE devices IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE device_attributes IN SHARE ROW EXCLUSIVE MODE NOWAIT;
    EXIT;
  EXCEPTION WHEN lock_not_available THEN NULL;
  END;
END LOOP; END $$
"""


def upgrade() -> None:
    """Add the tables and triggers, then count: no change slips in between, as writers are locked out."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:
        # Claims write devices first, edits of attributes these: either may hold what the other lock waits for. So
        # nothing is held while waiting; SQLite has one writer.
        op.execute(_LOCK_OUT_WRITERS)
    op.create_table(
        "device_counts",
        sa.Column("counted", sa.String(160), nullable=False),
        sa.Column("devices", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("counted", name="pk_device_counts"),
    )
    op.create_table(
        "device_count_changes",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), nullable=False, autoincrement=True),
        sa.Column("counted", sa.String(160), nullable=False),
        sa.Column("devices", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_device_count_changes"),
    )
    op.create_index("ix_device_count_changes_counted", "device_count_changes", ["counted"])
    for table, columns, leaves, comes, differs in _WATCHED:
        statements = (
            _postgresql(table, columns, leaves, comes, differs)
            if is_postgresql
            else _sqlite(table, columns, leaves, comes, differs)
        )
        for statement in statements:
            op.execute(statement)
    op.execute(_COUNT_GROUPS)
    op.execute(_COUNT_PLACES)


def downgrade() -> None:
    """Remove the triggers and the tables."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    for table, *_ in _WATCHED:
        for verb in ("insert", "delete", "update"):
            op.execute(f"DROP TRIGGER {table}_counted_{verb}" + (f" ON {table}" if is_postgresql else ""))
            if is_postgresql:
                op.execute(f"DROP FUNCTION {table}_counted_{verb}")
    op.drop_table("device_count_changes")
    op.drop_table("device_counts")


def _triggers(table: str, columns: str, leaves: str, comes: str, differs: str) -> list[tuple[str, str, str, str]]:
    """Return the name of each trigger, what it is after, its condition and what it does."""
    return [
        (f"{table}_counted_insert", f"INSERT ON {table}", "", comes),
        (f"{table}_counted_delete", f"DELETE ON {table}", "", leaves),
        (f"{table}_counted_update", f"UPDATE OF {columns} ON {table}", f" WHEN ({differs})", f"{leaves} {comes}"),
    ]


def _sqlite(table: str, columns: str, leaves: str, comes: str, differs: str) -> list[str]:
    return [
        f"CREATE TRIGGER {name} AFTER {event} FOR EACH ROW{when} BEGIN {notes} END"
        for name, event, when, notes in _triggers(table, columns, leaves, comes, differs)
    ]


def _postgresql(table: str, columns: str, leaves: str, comes: str, differs: str) -> list[str]:
    return [
        statement
        for name, event, when, notes in _triggers(table, columns, leaves, comes, differs)
        for statement in (
            f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {notes} RETURN NULL; END $$",
            f"CREATE TRIGGER {name} AFTER {event} FOR EACH ROW{when} EXECUTE FUNCTION {name}()",
        )
    ]
