"""Documents in force, what is inside images, and which devices run it.

A component leads to its images by `name_key` or `package`, an image to its devices by one index (slot, image, device),
and to their number by a small one (slot, image); nothing reads the rows of devices.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Subquery, and_, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Slot
from protocol.updates import DocumentKind, document_target_name
from service.adapters.database.supply_chain_tables import bom_components, documents, vex_statements
from service.adapters.database.update_tables import installed_images
from service.adapters.database.upsert import insert_into
from service.application.document_repository import (
    ComponentQuery,
    ListedComponent,
    StoredDocument,
    StoredStatement,
)


class SqlDocuments:
    """Implements `DocumentRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, document: StoredDocument) -> None:
        """See `DocumentRepository.add`."""
        added = insert_into(self._connection, documents).on_conflict_do_nothing()
        await self._connection.execute(added, _unnumbered(document))

    async def find(self, sha256: str) -> StoredDocument | None:
        """See `DocumentRepository.find`."""
        names = [document_target_name(kind, sha256) for kind in DocumentKind]
        query = select(documents).where(documents.c.path.in_(names))
        row = (await self._connection.execute(query)).first()
        return None if row is None else _document(row)

    async def about(self, subjects: Collection[str]) -> Sequence[StoredDocument]:
        """See `DocumentRepository.about`."""
        query = select(documents).where(documents.c.subject.in_(subjects)).order_by(documents.c.number)
        return [_document(row) for row in await self._connection.execute(query)]

    async def add_components(self, components: Sequence[ListedComponent]) -> None:
        """See `DocumentRepository.add_components`."""
        digests = {each.image_sha256 for each in components}
        query = select(bom_components.c.sha256).distinct().where(bom_components.c.sha256.in_(digests))
        known = set(await self._connection.scalars(query))
        rows = [_component_row(each) for each in components if each.image_sha256 not in known]
        if rows:
            await self._connection.execute(insert(bom_components), rows)

    async def add_statements(self, statements: Sequence[StoredStatement]) -> None:
        """See `DocumentRepository.add_statements`."""
        await self._connection.execute(insert(vex_statements), [_unnumbered(each) for each in statements])

    async def components(self, query: ComponentQuery, *, after_number: int, limit: int) -> Sequence[ListedComponent]:
        """See `DocumentRepository.components`."""
        number = bom_components.c.number
        found = select(bom_components).where(_matches(query), number > after_number).order_by(number).limit(limit)
        return [
            ListedComponent(row.sha256, row.type, row.name, row.version, row.purl, row.number)
            for row in await self._connection.execute(found)
        ]

    async def installed(self, query: ComponentQuery) -> Sequence[tuple[Slot, str]]:
        """See `DocumentRepository.installed`."""
        rows = await self._connection.execute(installed_query(query))
        found = [(slot, row[0]) for row in rows for slot, is_run in zip(Slot, row[1:], strict=True) if is_run]
        return sorted(found)

    async def installed_of(self, digests: Collection[str]) -> Mapping[str, Mapping[Slot, int]]:
        """See `DocumentRepository.installed_of`."""
        rows = await self._connection.execute(counts_query(digests))
        return {row[0]: {slot: count for slot, count in zip(Slot, row[1:], strict=True) if count} for row in rows}

    async def devices(self, slot: Slot, image_sha256: str, *, after_id: str, limit: int) -> Sequence[str]:
        """See `DocumentRepository.devices`."""
        device_id = installed_images.c.device_id
        query = (
            select(device_id)
            .where(installed_images.c.slot == slot, installed_images.c.sha256 == image_sha256, device_id > after_id)
            .order_by(device_id)
            .limit(limit)
        )
        return list(await self._connection.scalars(query))

    async def statements(
        self, *, vulnerability: str | None, release: str | None, after_number: int, limit: int
    ) -> Sequence[StoredStatement]:
        """See `DocumentRepository.statements`."""
        number = vex_statements.c.number
        query = select(vex_statements).where(number > after_number).order_by(number).limit(limit)
        if vulnerability is not None:
            query = query.where(vex_statements.c.vulnerability == vulnerability)
        if release is not None:
            query = query.where(vex_statements.c.release == release)
        rows = (await self._connection.execute(query)).all()
        return [StoredStatement(**row._mapping) for row in rows]  # noqa: SLF001 - the row's public mapping


def installed_query(query: ComponentQuery) -> Select[Any]:
    """Return what finds images that run: a row for each image with a component, a column for each slot.

    Each column reads one entry of the index, whatever a planner thinks of how rare a component is.
    """
    images = _images(_matches(query))
    return select(images.c.sha256, *(_running(images, slot).exists() for slot in Slot))


def counts_query(digests: Collection[str]) -> Select[Any]:
    """Return what counts devices: a row for each image, a column for each slot.

    Each count reads one range of the small index.
    """
    images = _images(bom_components.c.sha256.in_(digests))
    counts = (_running(images, slot).with_only_columns(func.count()).scalar_subquery() for slot in Slot)
    return select(images.c.sha256, *counts)


def _images(condition: ColumnElement[bool]) -> Subquery:
    return select(bom_components.c.sha256).where(condition).distinct().subquery()


def _running(images: Subquery, slot: Slot) -> Select[Any]:
    return select(installed_images.c.device_id).where(
        installed_images.c.slot == slot, installed_images.c.sha256 == images.c.sha256
    )


def _matches(query: ComponentQuery) -> ColumnElement[bool]:
    wanted = []
    if query.name is not None:
        wanted.append(bom_components.c.name_key == query.name.casefold())
    if query.package is not None:
        wanted.append(bom_components.c.package == query.package)
    if query.version is not None:
        wanted.append(bom_components.c.version == query.version)
    return and_(*wanted)


def _component_row(component: ListedComponent) -> dict[str, str]:
    return {
        "sha256": component.image_sha256,
        "type": component.type,
        "name": component.name,
        "version": component.version,
        "purl": component.purl,
        "name_key": component.name.casefold(),
        "package": component.package,
    }


def _unnumbered(stored: StoredDocument | StoredStatement) -> dict[str, Any]:
    return {name: value for name, value in asdict(stored).items() if name != "number"}


def _document(row: Row[Any]) -> StoredDocument:
    return StoredDocument(
        path=row.path,
        kind=DocumentKind(row.kind),
        subject=row.subject,
        sha256=row.sha256,
        length=row.length,
        created_at=row.created_at,
        number=row.number,
    )
