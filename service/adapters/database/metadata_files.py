"""Signed metadata of both repositories, and the images that are listed."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, exists, func, insert, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import ImageKind, Slot
from protocol.model import ModelFacts
from protocol.updates import ImageCustom
from protocol.versions import Build
from service.adapters.database.artifacts import model_facts
from service.adapters.database.chunks import chunks
from service.adapters.database.supply_chain_tables import metadata_targets
from service.adapters.database.update_tables import artifacts, image_targets, metadata_files, release_images
from service.adapters.database.upsert import upsert
from service.application.update_repositories import (
    ImageTarget,
    ListedTarget,
    MetadataFile,
    RepositoryName,
    RoleVersion,
)
from service.domain.release import ImageListedError, MetadataRaceError, UnknownImageError

_PUBLICATION_LOCK = 0x7466_6D64  # "tfmd"


class SqlMetadata:
    """Implements `MetadataRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def hold(self) -> None:
        """See `MetadataRepository.hold`."""
        if self._connection.dialect.name == "postgresql":  # SQLite has one writer at a time
            await self._connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _PUBLICATION_LOCK})

    async def put(self, *files: MetadataFile, at: datetime) -> None:
        """See `MetadataRepository.put`."""
        rows = [
            {
                "repository": file.repository,
                "role": file.role,
                "version": file.version,
                "content": file.content,
                "expires_at": file.expires_at,
                "created_at": at,
            }
            for file in files
        ]
        if not rows:
            return
        try:
            await self._connection.execute(insert(metadata_files), rows)
        except IntegrityError as error:
            named = ", ".join(f"{file.role} version {file.version}" for file in files[:4])
            raise MetadataRaceError(f"metadata: expected {named} to be new, found it in force") from error

    async def find(self, repository: RepositoryName, role: str, *, version: int | None = None) -> MetadataFile | None:
        """See `MetadataRepository.find`."""
        column = metadata_files.c.version
        query = select(metadata_files).where(metadata_files.c.repository == repository, metadata_files.c.role == role)
        query = query.order_by(column.desc()).limit(1) if version is None else query.where(column == version)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _file(row)

    async def newest(self, repository: RepositoryName, roles: Collection[str]) -> Mapping[str, MetadataFile]:
        """See `MetadataRepository.newest`."""
        found: dict[str, MetadataFile] = {}
        for some in chunks(roles):
            files = metadata_files.alias()
            newest = (
                select(files.c.role, func.max(files.c.version).label("version"))
                .where(files.c.repository == repository, files.c.role.in_(some))
                .group_by(files.c.role)
                .subquery()
            )
            same = (metadata_files.c.role == newest.c.role) & (metadata_files.c.version == newest.c.version)
            query = select(metadata_files).join(newest, same).where(metadata_files.c.repository == repository)
            found |= {row.role: _file(row) for row in await self._connection.execute(query)}
        return found

    async def versions(self) -> Sequence[RoleVersion]:
        """See `MetadataRepository.versions`."""
        files, newest = metadata_files.c, metadata_files.alias()
        last = (
            select(func.max(newest.c.version))
            .where(newest.c.repository == files.repository, newest.c.role == files.role)
            .scalar_subquery()
        )
        query = select(files.repository, files.role, files.version, files.expires_at).where(files.version == last)
        rows = await self._connection.execute(query.order_by(files.repository, files.role))
        return [RoleVersion(RepositoryName(row.repository), row.role, row.version, row.expires_at) for row in rows]

    async def version(self, repository: RepositoryName, role: str) -> int:
        """See `MetadataRepository.version`."""
        newest = select(func.max(metadata_files.c.version))
        return (
            await self._connection.scalar(
                newest.where(metadata_files.c.repository == repository, metadata_files.c.role == role)
            )
            or 0
        )

    async def prune(self, repository: RepositoryName, below: Mapping[str, int]) -> None:
        """See `MetadataRepository.prune`."""
        if not below:
            return
        old = delete(metadata_files).where(
            metadata_files.c.repository == repository,
            metadata_files.c.role == bindparam("of_role"),
            metadata_files.c.version < bindparam("below"),
        )
        rows = [{"of_role": role, "below": version} for role, version in below.items()]
        await self._connection.execute(old, rows)

    async def add_images(self, images: Sequence[ImageTarget]) -> None:
        """See `MetadataRepository.add_images`."""
        rows = [
            {
                "path": image.path,
                "sha256": image.sha256,
                "length": image.length,
                "custom": image.custom.model_dump(mode="json"),
                "image_id": image.custom.image_id,
                "since_version": image.since_version,
                "component_id": image.custom.component_id,
            }
            for image in images
        ]
        if not rows:
            return
        try:
            await self._connection.execute(insert(image_targets), rows)
        except IntegrityError as error:
            named = ", ".join(image.path for image in images[:4])
            raise ImageListedError(f"images: expected ids that no target has, found one of {named} in force") from error

    async def images(self, *, after_path: str, limit: int) -> Sequence[ImageTarget]:
        """See `MetadataRepository.images`."""
        path = image_targets.c.path
        query = select(image_targets).where(path > after_path).order_by(path).limit(limit)
        return [_image(row) for row in await self._connection.execute(query)]

    async def image(self, image_id: str) -> ImageTarget:
        """See `MetadataRepository.image`."""
        query = select(image_targets).where(image_targets.c.image_id == image_id)
        row = (await self._connection.execute(query)).first()
        if row is None:
            raise UnknownImageError(f"image: expected the id of an image in force, found {image_id[:60]!r}")
        return _image(row)

    async def images_of(self, digests: Collection[str]) -> Mapping[str, ImageTarget]:
        """See `MetadataRepository.images_of`."""
        found: dict[str, ImageTarget] = {}
        for some in chunks(digests):
            query = select(image_targets).where(image_targets.c.sha256.in_(some))
            found |= {row.sha256: _image(row) for row in await self._connection.execute(query)}
        return found

    async def images_at(self, paths: Collection[str]) -> Mapping[str, ImageTarget]:
        """See `MetadataRepository.images_at`."""
        found: dict[str, ImageTarget] = {}
        for some in chunks(paths):
            query = select(image_targets).where(image_targets.c.path.in_(some))
            found |= {row.path: _image(row) for row in await self._connection.execute(query)}
        return found

    async def builds(self, *, component_id: str | None, name: str | None) -> Sequence[Build]:
        """See `MetadataRepository.builds`; images are few beside devices, so names are compared without an index."""
        query = select(image_targets)
        if component_id is not None:
            query = query.where(image_targets.c.component_id == component_id)
        if name is not None:
            named = image_targets.c.custom["name"].as_string()
            query = query.where(named.startswith(f"{name}@", autoescape=True))
        images = [_image(row) for row in await self._connection.execute(query)]
        return [image.custom.build(image.sha256) for image in images]

    async def models(self) -> Mapping[str, ModelFacts]:
        """See `MetadataRepository.models`; images are few beside devices, so all that are in force are read."""
        is_model = image_targets.c.custom["slot_kind"].as_string() == ImageKind.MODEL
        query = select(artifacts.c.sha256, artifacts.c.facts).where(
            exists().where(image_targets.c.sha256 == artifacts.c.sha256, is_model)
        )
        found = {row.sha256: model_facts(row.facts) for row in await self._connection.execute(query)}
        return {sha256: facts for sha256, facts in found.items() if facts is not None}

    async def released_builds(self, slot: Slot, component_id: str) -> Sequence[Build]:
        """See `MetadataRepository.released_builds`."""
        # Both by an index: the component's images, and of each the releases that brought it.
        is_released = exists().where(
            release_images.c.sha256 == image_targets.c.sha256,
            release_images.c.target == image_targets.c.path,
            release_images.c.slot == slot,
        )
        query = select(image_targets).where(image_targets.c.component_id == component_id, is_released)
        images = [_image(row) for row in await self._connection.execute(query)]
        return [image.custom.build(image.sha256) for image in images]

    async def listed(self, paths: Collection[str]) -> Mapping[str, ListedTarget]:
        """See `MetadataRepository.listed`."""
        found: dict[str, ListedTarget] = {}
        for some in chunks(paths):
            query = select(metadata_targets).where(metadata_targets.c.path.in_(some))
            found |= {row.path: _listed(row) for row in await self._connection.execute(query)}
        return found

    async def all_listed(self, *, after_path: str, limit: int) -> Sequence[ListedTarget]:
        """See `MetadataRepository.all_listed`."""
        path = metadata_targets.c.path
        query = select(metadata_targets).where(path > after_path).order_by(path).limit(limit)
        return [_listed(row) for row in await self._connection.execute(query)]

    async def list_targets(self, targets: Sequence[ListedTarget]) -> None:
        """See `MetadataRepository.list_targets`."""
        rows = [
            {"path": target.path, "role": target.role, "sha256": target.sha256, "length": target.length}
            for target in targets
        ]
        if rows:
            await self._connection.execute(upsert(self._connection, metadata_targets), rows)

    async def unlist_targets(self, paths: Collection[str]) -> None:
        """See `MetadataRepository.unlist_targets`."""
        for some in chunks(paths):
            await self._connection.execute(delete(metadata_targets).where(metadata_targets.c.path.in_(some)))


def _file(row: Row[Any]) -> MetadataFile:
    return MetadataFile(
        repository=RepositoryName(row.repository),
        role=row.role,
        version=row.version,
        content=bytes(row.content),
        expires_at=row.expires_at,
    )


def _listed(row: Row[Any]) -> ListedTarget:
    return ListedTarget(path=row.path, role=row.role, sha256=row.sha256, length=row.length)


def _image(row: Row[Any]) -> ImageTarget:
    return ImageTarget(
        path=row.path,
        sha256=row.sha256,
        length=row.length,
        custom=ImageCustom.model_validate(row.custom),
        since_version=row.since_version,
    )
