"""Signed metadata of both repositories, and the images that are listed."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.updates import ImageCustom
from service.adapters.database.supply_chain_tables import metadata_targets
from service.adapters.database.update_tables import image_targets, metadata_files
from service.application.update_repositories import ImageTarget, MetadataFile, MetadataRole, RepositoryName
from service.domain.release import MetadataRaceError, UnknownImageError


class SqlMetadata:
    """Implements `MetadataRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def put(self, file: MetadataFile, *, at: datetime) -> None:
        """See `MetadataRepository.put`."""
        row = {
            "repository": file.repository,
            "role": file.role,
            "version": file.version,
            "content": file.content,
            "expires_at": file.expires_at,
            "created_at": at,
        }
        try:
            await self._connection.execute(insert(metadata_files), row)
        except IntegrityError as error:
            raise MetadataRaceError(
                f"{file.role}: expected version {file.version} to be new, found it in force"
            ) from error

    async def find(
        self, repository: RepositoryName, role: MetadataRole, *, version: int | None = None
    ) -> MetadataFile | None:
        """See `MetadataRepository.find`."""
        column = metadata_files.c.version
        query = select(metadata_files).where(metadata_files.c.repository == repository, metadata_files.c.role == role)
        query = query.order_by(column.desc()).limit(1) if version is None else query.where(column == version)
        row = (await self._connection.execute(query)).first()
        return None if row is None else _file(row)

    async def version(self, repository: RepositoryName, role: MetadataRole) -> int:
        """See `MetadataRepository.version`."""
        newest = select(func.max(metadata_files.c.version))
        return (
            await self._connection.scalar(
                newest.where(metadata_files.c.repository == repository, metadata_files.c.role == role)
            )
            or 0
        )

    async def prune(self, repository: RepositoryName, role: MetadataRole, *, below: int) -> None:
        """See `MetadataRepository.prune`."""
        await self._connection.execute(
            delete(metadata_files).where(
                metadata_files.c.repository == repository,
                metadata_files.c.role == role,
                metadata_files.c.version < below,
            )
        )

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
            }
            for image in images
        ]
        if rows:
            await self._connection.execute(insert(image_targets), rows)

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
        query = select(image_targets).where(image_targets.c.sha256.in_(digests))
        return {row.sha256: _image(row) for row in await self._connection.execute(query)}


    async def roles_of(self, paths: Collection[str]) -> Mapping[str, str]:
        """See `MetadataRepository.roles_of`."""
        query = select(metadata_targets.c.path, metadata_targets.c.role).where(metadata_targets.c.path.in_(paths))
        return {row.path: row.role for row in await self._connection.execute(query)}


def _file(row: Row[Any]) -> MetadataFile:
    return MetadataFile(
        repository=RepositoryName(row.repository),
        role=MetadataRole(row.role),
        version=row.version,
        content=bytes(row.content),
        expires_at=row.expires_at,
    )


def _image(row: Row[Any]) -> ImageTarget:
    return ImageTarget(
        path=row.path,
        sha256=row.sha256,
        length=row.length,
        custom=ImageCustom.model_validate(row.custom),
        since_version=row.since_version,
    )
