"""What is known of the bytes in the artifact store."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from protocol.geometry import Core, ImageKind
from protocol.image import IMAGE_TYPE, ImageInfo
from protocol.model import ModelFacts, ModelKind
from protocol.sensing import SensorKind
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

    async def undescribed(self, *, limit: int) -> Sequence[str]:
        """See `ArtifactRepository.undescribed`; artifacts are few beside devices, and it is asked at a start."""
        is_model = artifacts.c.facts[("image", "image_type")].as_integer() == IMAGE_TYPE[ImageKind.MODEL]
        is_unknown = artifacts.c.facts["model"].as_string().is_(None)
        query = select(artifacts.c.sha256).where(artifacts.c.kind == ArtifactKind.IMAGE, is_model, is_unknown)
        return list(await self._connection.scalars(query.order_by(artifacts.c.sha256).limit(limit)))

    async def describe(self, artifact: Artifact) -> None:
        """See `ArtifactRepository.describe`."""
        row = update(artifacts).where(artifacts.c.sha256 == artifact.sha256).values(facts=_facts(artifact))
        await self._connection.execute(row)


def model_facts(facts: Mapping[str, Any]) -> ModelFacts | None:
    """Return what is kept of a model, of the facts of an artifact; None of others."""
    model = facts.get("model")  # packages from before it was kept have none
    if model is None:
        return None
    enums = {"core": Core(model["core"]), "kind": ModelKind(model["kind"]), "sensor": SensorKind(model["sensor"])}
    return ModelFacts(**{**model, **enums, "labels": tuple(model["labels"])})


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
        "model": None if artifact.model is None else asdict(artifact.model),
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
        model=model_facts(facts),
        is_system=facts["is_system"],
        component_id=facts["component_id"],
        document=None if document is None else ReleaseDocument.model_validate(document),
        subject=facts.get("subject"),  # artifacts from before there were documents have none
        digests=tuple(facts.get("digests", ())),
    )
