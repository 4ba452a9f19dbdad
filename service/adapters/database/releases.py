"""Releases in the control database."""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Row, func, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Slot
from protocol.updates import MustPass, ReleaseImage
from service.adapters.database.update_tables import image_targets, release_images, releases
from service.domain.errors import NameTakenError
from service.domain.release import Release, UnknownReleaseError


class SqlReleases:
    """Implements `ReleaseRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, release: Release) -> None:
        """See `ReleaseRepository.add`."""
        row = {
            "release_id": release.release_id,
            "name": release.name,
            "counter": release.counter,
            "target": release.target,
            "factory": release.factory,
            "created_at": release.created_at,
            "created_by": release.created_by,
            "goes_back": {slot: list(digests) for slot, digests in release.goes_back.items()},
            "way_back_of": release.way_back_of,
            "support_ends": release.support_ends,
            "must_pass": release.must_pass,
            "after": {slot: must.model_dump(mode="json") for slot, must in release.after.items()},
        }
        try:
            await self._connection.execute(insert(releases), row)
        except IntegrityError as error:
            raise NameTakenError(f"release: expected a new name, found {release.name!r} in use") from error
        images = [
            {"release_id": release.release_id, "slot": slot, **image.model_dump(mode="json")}
            for slot, image in release.images.items()
        ]
        await self._connection.execute(insert(release_images), images)

    async def get(self, id_or_name: str) -> Release:
        """See `ReleaseRepository.get`."""
        named = or_(releases.c.release_id == id_or_name, releases.c.name == id_or_name)
        row = (await self._connection.execute(select(releases).where(named))).first()
        if row is None:
            raise UnknownReleaseError(f"release: expected an id or name in force, found {id_or_name[:60]!r}")
        return (await self._with_images([row]))[0]

    async def page(self, *, before_counter: int | None, limit: int) -> Sequence[Release]:
        """See `ReleaseRepository.page`."""
        query = select(releases).order_by(releases.c.counter.desc()).limit(limit)
        if before_counter is not None:
            query = query.where(releases.c.counter < before_counter)
        return await self._with_images((await self._connection.execute(query)).all())

    async def must_pass(self, slot: Slot, component_id: str) -> tuple[str, ReleaseImage] | None:
        """See `ReleaseRepository.must_pass`."""
        query = (
            select(releases.c.name, release_images.c.target, release_images.c.sha256, release_images.c.length)
            .select_from(releases)
            .join(release_images)
            .join(image_targets, image_targets.c.path == release_images.c.target)
            .where(releases.c.must_pass, release_images.c.slot == slot, image_targets.c.component_id == component_id)
        )
        row = (await self._connection.execute(query.order_by(releases.c.counter.desc()).limit(1))).first()
        return (
            None if row is None else (row.name, ReleaseImage(target=row.target, sha256=row.sha256, length=row.length))
        )

    async def way_back_of(self, name: str) -> Release | None:
        """See `ReleaseRepository.way_back_of`."""
        query = select(releases).where(releases.c.way_back_of == name).order_by(releases.c.counter.desc()).limit(1)
        rows = (await self._connection.execute(query)).all()
        return next(iter(await self._with_images(rows)), None)

    async def highest_counter(self) -> int:
        """See `ReleaseRepository.highest_counter`."""
        return (await self._connection.execute(select(func.max(releases.c.counter)))).scalar() or 0

    async def newest_with(self, digests: Collection[str]) -> Mapping[str, str]:
        """See `ReleaseRepository.newest_with`."""
        query = (
            select(release_images.c.sha256, releases.c.name)
            .join(releases)
            .where(release_images.c.sha256.in_(digests))
            .order_by(releases.c.counter)
        )
        return {row.sha256: row.name for row in await self._connection.execute(query)}

    async def count(self) -> int:
        """See `ReleaseRepository.count`."""
        return (await self._connection.execute(select(func.count()).select_from(releases))).scalar_one()

    async def _with_images(self, rows: Sequence[Row[Any]]) -> list[Release]:
        query = select(release_images).where(release_images.c.release_id.in_([row.release_id for row in rows]))
        images: dict[str, dict[Slot, ReleaseImage]] = {row.release_id: {} for row in rows}
        for image in await self._connection.execute(query):
            listed = ReleaseImage(target=image.target, sha256=image.sha256, length=image.length)
            images[image.release_id][Slot(image.slot)] = listed
        return [_release(row, images[row.release_id]) for row in rows]


def _release(row: Row[Any], images: Mapping[Slot, ReleaseImage]) -> Release:
    return Release(
        release_id=row.release_id,
        name=row.name,
        counter=row.counter,
        target=row.target,
        factory=row.factory,
        images={slot: images[slot] for slot in Slot if slot in images},
        created_at=row.created_at,
        created_by=row.created_by,
        goes_back={Slot(slot): tuple(digests) for slot, digests in row.goes_back.items()},
        way_back_of=row.way_back_of,
        support_ends=row.support_ends,
        must_pass=row.must_pass,
        after={Slot(slot): MustPass.model_validate_json(json.dumps(must)) for slot, must in row.after.items()},
    )
