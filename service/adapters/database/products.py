"""Products and device groups in the control database."""

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Column, ColumnElement, Row, Select, Table, insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.evidence import LifeCycle
from service.adapters.database.device_tables import device_groups, products
from service.domain.attestation_policy import AttestationPolicy, UnknownSoftware
from service.domain.errors import NameTakenError, VersionConflictError
from service.domain.product import (
    AmbiguousGroupError,
    DataBoundary,
    DeviceGroup,
    GroupPolicy,
    OsFeed,
    Product,
    UnknownGroupError,
    UnknownProductError,
    UpdatePolicy,
)

_groups_with_product = select(device_groups, products.c.name.label("product_name")).join(products)


class SqlProducts:
    """Implements `ProductRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, product: Product, groups: Sequence[DeviceGroup]) -> None:
        """See `ProductRepository.add`."""
        try:
            await self._connection.execute(insert(products).values(_product_values(product)))
        except IntegrityError as error:
            raise NameTakenError(f"product: expected a new name, found {product.name!r} in use") from error
        await self._connection.execute(insert(device_groups), [_group_values(group) for group in groups])

    async def add_group(self, group: DeviceGroup) -> None:
        """See `ProductRepository.add_group`."""
        try:
            await self._connection.execute(insert(device_groups).values(_group_values(group)))
        except IntegrityError as error:
            raise NameTakenError(f"device group: expected a new name, found {group.name!r} in use") from error

    async def get(self, id_or_name: str) -> Product:
        """See `ProductRepository.get`."""
        named = or_(products.c.product_id == id_or_name, products.c.name == id_or_name)
        row = (await self._connection.execute(select(products).where(named))).first()
        if row is None:
            raise UnknownProductError(f"product: expected an id or name in use, found {id_or_name[:60]!r}")
        return _product(row)

    async def get_group(self, id_or_name: str, *, product_id: str | None = None) -> DeviceGroup:
        """See `ProductRepository.get_group`."""
        named = or_(device_groups.c.group_id == id_or_name, device_groups.c.name == id_or_name)
        query = _groups_with_product.where(named).limit(2)
        if product_id is not None:
            query = query.where(device_groups.c.product_id == product_id)
        rows = (await self._connection.execute(query)).all()
        if not rows:
            raise UnknownGroupError(f"device group: expected an id or name in use, found {id_or_name[:60]!r}")
        if len(rows) > 1:
            raise AmbiguousGroupError(f"device group: expected a product with {id_or_name!r}, found several products")
        return _group(rows[0])

    async def page(self, *, after_name: str | None, limit: int) -> Sequence[Product]:
        """See `ProductRepository.page`."""
        query = select(products).order_by(products.c.name).limit(limit)
        if after_name is not None:
            query = query.where(products.c.name > after_name)
        return [_product(row) for row in await self._connection.execute(query)]

    async def page_groups(
        self, *, after_id: str | None, limit: int, product_id: str | None = None, name: str | None = None
    ) -> Sequence[DeviceGroup]:
        """See `ProductRepository.page_groups`."""
        conditions = {device_groups.c.product_id: product_id, device_groups.c.name: name}
        query = _filtered(_groups_with_product, conditions).order_by(device_groups.c.group_id).limit(limit)
        if after_id is not None:
            query = query.where(device_groups.c.group_id > after_id)
        return [_group(row) for row in await self._connection.execute(query)]

    async def attestation_policies(self, group_ids: Collection[str]) -> Mapping[str, AttestationPolicy]:
        """See `ProductRepository.attestation_policies`."""
        columns = device_groups.c
        rows = await self._connection.execute(
            select(columns.group_id, columns.attestation).where(columns.group_id.in_(group_ids))
        )
        return {row.group_id: _attestation(row.attestation) for row in rows}

    async def save(self, product: Product, *, replaces_version: int) -> None:
        """See `ProductRepository.save`."""
        await self._replace(
            products, _product_values(product), products.c.product_id == product.product_id, replaces_version
        )

    async def save_group(self, group: DeviceGroup, *, replaces_version: int) -> None:
        """See `ProductRepository.save_group`."""
        await self._replace(
            device_groups, _group_values(group), device_groups.c.group_id == group.group_id, replaces_version
        )

    async def _replace(
        self,
        table: Table,
        values: Mapping[str, object],
        key: ColumnElement[bool],
        version: int,
    ) -> None:
        statement = update(table).where(key, table.c.version == version).values(dict(values))
        try:
            result = await self._connection.execute(statement)
        except IntegrityError as error:
            raise NameTakenError(f"name: expected a new one, found {values['name']!r} in use") from error
        if result.rowcount == 0:
            raise VersionConflictError(f"version: expected {version} in force, found another")


def _filtered(query: Select[Any], conditions: Mapping[Column[Any], str | None]) -> Select[Any]:
    for column, value in conditions.items():
        if value is not None:
            query = query.where(column == value)
    return query


def _product_values(product: Product) -> dict[str, object]:
    return {
        "product_id": product.product_id,
        "name": product.name,
        "description": product.description,
        "created_at": product.created_at,
        "version": product.version,
        "est": product.est,
    }


def _product(row: Row[Any]) -> Product:
    return Product(
        product_id=row.product_id,
        name=row.name,
        description=row.description,
        created_at=row.created_at,
        version=row.version,
        est=row.est,
    )


def _group_values(group: DeviceGroup) -> dict[str, object]:
    return {
        "group_id": group.group_id,
        "product_id": group.product_id,
        "name": group.name,
        "description": group.description,
        "os_feed": group.policy.os_feed,
        "update_policy": group.policy.update_policy,
        "allow_crash_dumps": group.policy.allow_crash_dumps,
        "data_boundary": group.policy.data_boundary,
        "attestation": _attestation_json(group.policy.attestation),
        "created_at": group.created_at,
        "version": group.version,
    }


def _group(row: Row[Any]) -> DeviceGroup:
    return DeviceGroup(
        group_id=row.group_id,
        product_id=row.product_id,
        product_name=row.product_name,
        name=row.name,
        description=row.description,
        policy=GroupPolicy(
            os_feed=OsFeed(row.os_feed),
            update_policy=UpdatePolicy(row.update_policy),
            allow_crash_dumps=row.allow_crash_dumps,
            data_boundary=DataBoundary(row.data_boundary),
            attestation=_attestation(row.attestation),
        ),
        created_at=row.created_at,
        version=row.version,
    )


def _attestation_json(policy: AttestationPolicy) -> dict[str, object]:
    lifetime = policy.certificate_lifetime
    return {
        "minimum_os": policy.minimum_os,
        "life_cycles": sorted(policy.life_cycles),
        "debug": policy.debug,
        "certificate_seconds": None if lifetime is None else lifetime.total_seconds(),
        "unknown": policy.unknown,
    }


def _attestation(stored: Mapping[str, Any]) -> AttestationPolicy:
    if not stored:  # of a release before policies
        return AttestationPolicy()
    seconds = stored["certificate_seconds"]
    return AttestationPolicy(
        minimum_os=stored["minimum_os"],
        life_cycles=frozenset(LifeCycle(value) for value in stored["life_cycles"]),
        debug=stored["debug"],
        certificate_lifetime=None if seconds is None else timedelta(seconds=seconds),
        unknown=UnknownSoftware(stored["unknown"]),
    )
