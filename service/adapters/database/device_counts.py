"""How many devices are in a group or at a place, without looking at them.

Triggers note every change in the transaction that makes it (migration 0024), so a count is exact whoever wrote, an
older version of the service included, and writers of the same group never wait for one another. What was noted is
summed up in bounded steps; until then it is added where a count is asked for.
"""

from collections import Counter

from sqlalchemy import bindparam, delete, func, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from service.adapters.database.device_tables import device_count_changes, device_counts
from service.adapters.database.upsert import insert_into

_EMPTY = delete(device_counts).where(device_counts.c.counted == bindparam("changed"), device_counts.c.devices == 0)


async def count_of(connection: AsyncConnection, counted: str) -> int:
    """Return the devices of a group that could take a release, or of a place.

    Args:
        connection: of the transaction.
        counted: id of the group, or name of the place.
    """
    known = select(device_counts.c.devices).where(device_counts.c.counted == counted).scalar_subquery()
    changes = select(func.sum(device_count_changes.c.devices)).where(device_count_changes.c.counted == counted)
    # One statement, so that both are of one snapshot: a step between them would count its changes twice.
    query = select(func.coalesce(known, literal(0)) + func.coalesce(changes.scalar_subquery(), literal(0)))
    return int(await connection.scalar(query) or 0)


async def sum_up(connection: AsyncConnection, *, limit: int) -> int:
    """Add at most `limit` changes to the counts that they are of; return how many."""
    # Another process may be at it: what it has taken is left to it.
    oldest = select(device_count_changes).order_by(device_count_changes.c.number).limit(limit)
    taken = (await connection.execute(oldest.with_for_update(skip_locked=True))).all()
    # One by one: by a subquery, PostgreSQL would run that for each row, as it knows no statistics of an empty table.
    gone = delete(device_count_changes).where(device_count_changes.c.number == bindparam("gone"))
    if taken:
        await connection.execute(gone, [{"gone": row.number} for row in taken])
    changes: Counter[str] = Counter()
    for row in taken:
        changes[row.counted] += row.devices
    # In the order of the key, so that two processes never wait for one another's rows.
    rows = [{"counted": counted, "devices": devices} for counted, devices in sorted(changes.items()) if devices]
    if rows:
        added = insert_into(connection, device_counts)
        total = device_counts.c.devices + added.excluded.devices
        await connection.execute(
            added.on_conflict_do_update(index_elements=[device_counts.c.counted], set_={"devices": total}), rows
        )
        # Of what nobody is at any more, no row stays; only those that this transaction has locked just now.
        await connection.execute(_EMPTY, [{"changed": row["counted"]} for row in rows])
    return len(taken)
