"""What is known of the bytes in the artifact store."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.image import ImageInfo
from protocol.updates import ReleaseDocument
from service.adapters.database.chunks import chunks
from service.adapters.database.update_tables import artifacts
from service.adapters.database.upsert import insert_into
from service.domain.release import Artifact, ArtifactKind


class SqlArtifacts:
    """Implements `ArtifactRepository`."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, artifact: Artifact, *, by: str, at: datetime) -> None:
        """See `ArtifactRepository.add`."""
        row = {
            "sha256": artifact.sha256,
            "length": artifact.length,
            "kind": artifact.kind,
            "facts": _facts(artifact),
            "created_at": at,
            "created_by": by,
        }
        await self._connection.execute(insert_into(self._connection, artifacts).on_conflict_do_nothing(), row)

    async def find(self, digests: Collection[str]) -> Mapping[str, Artifact]:
        """See `ArtifactRepository.find`."""
        found: dict[str, Artifact] = {}
        for some in chunks(digests):
            query = select(artifacts).where(artifacts.c.sha256.in_(some))
            found |= {row.sha256: _artifact(row) for row in await self._connection.execute(query)}
        return found


def _facts(artifact: Artifact) -> dict[str, Any]:
    info = artifact.image
    image = info and {
        "image_type": info.image_type,
        "component_id": info.component_id,
        "image_id": info.image_id,
        "name": info.name,
        "security_version": info.security_version,
        "built_at": info.built_at.isoformat(),
    }
    return {
        "image": image,
        "is_system": artifact.is_system,
        "component_id": artifact.component_id,
        "document": artifact.document and artifact.document.model_dump(mode="json"),
        "subject": artifact.subject,
        "digests": list(artifact.digests),
    }


def _artifact(row: Row[Any]) -> Artifact:
    facts = row.facts
    image = facts["image"]
    if image is not None:
        image = ImageInfo(**{**image, "built_at": datetime.fromisoformat(image["built_at"])})
    document = facts["document"]
    return Artifact(
        sha256=row.sha256,
        length=row.length,
        kind=ArtifactKind(row.kind),
        image=image,
        is_system=facts["is_system"],
        component_id=facts["component_id"],
        document=None if document is None else ReleaseDocument.model_validate(document),
        subject=facts.get("subject"),  # artifacts from before there were documents have none
        digests=tuple(facts.get("digests", ())),
    )
