"""What changes: the stream of it, and lists of what is kept."""

import json
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from service.api.auth import ViewerActor
from service.api.paging import Page, Paging
from service.api.services import ServicesParameter
from service.api.sse import HEARTBEAT, STREAM_RESPONSES, LastEventId, event_text, stream_response
from service.application.events import EventFeed, EventType, StoredEvent

router = APIRouter(tags=["events"])


class EventModel(BaseModel):
    """A change, as the stream tells it; `id` is of what changed, such as a device."""

    sequence: int
    type: EventType
    id: str
    change: str
    at: datetime
    data: Mapping[str, Any]


@router.get("/events")
async def list_events(
    _actor: ViewerActor,
    services: ServicesParameter,
    paging: Paging,
    type: Annotated[EventType, Query(description="What the events are about.")],  # noqa: A002 - the parameter's name
    subject: Annotated[str | None, Query(max_length=200, description="Id of what changed.")] = None,
) -> Page[EventModel]:
    """List events of a type that are still kept, newest first."""
    async with services.unit_of_work(read_only=True) as work:
        found = await work.events.page(type, before=paging.after_number, limit=paging.fetch, subject_id=subject)
    return paging.page(found, key=lambda stored: stored.sequence, model=_model)


@router.get("/stream", response_class=StreamingResponse, responses=STREAM_RESPONSES)
async def stream_changes(
    _actor: ViewerActor, services: ServicesParameter, resume_after: LastEventId
) -> StreamingResponse:
    """Follow what changes: device, rollout, action, release, attestation, security, product, operator."""
    return stream_response(_changes(services.feed, resume_after))


async def _changes(feed: EventFeed, resume_after: int | None) -> AsyncIterator[str]:
    yield HEARTBEAT  # the response's head goes out before the first change
    async for stored in feed.stream(resume_after):
        yield HEARTBEAT if stored is None else _text(stored)


def _model(stored: StoredEvent) -> EventModel:
    event = stored.event
    return EventModel(
        sequence=stored.sequence,
        type=event.type,
        id=event.subject_id,
        change=event.change,
        at=event.at,
        data=event.data,
    )


def _text(stored: StoredEvent) -> str:
    event = stored.event
    data = {
        "type": event.type,
        "id": event.subject_id,
        "change": event.change,
        "at": event.at.isoformat(),
        "data": dict(event.data),
    }
    return event_text(stored.sequence, event.type, json.dumps(data))
