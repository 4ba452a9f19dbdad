"""The stream of what changes."""

import json
from collections.abc import AsyncIterator

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from service.api.auth import ViewerActor
from service.api.services import ServicesParameter
from service.api.sse import HEARTBEAT, STREAM_RESPONSES, LastEventId, event_text, stream_response
from service.application.events import EventFeed, StoredEvent

router = APIRouter(prefix="/stream", tags=["events"])


@router.get("", response_class=StreamingResponse, responses=STREAM_RESPONSES)
async def stream_changes(
    _actor: ViewerActor, services: ServicesParameter, resume_after: LastEventId
) -> StreamingResponse:
    """Follow what changes: device, rollout, action, release, attestation, security, product, operator."""
    return stream_response(_changes(services.feed, resume_after))


async def _changes(feed: EventFeed, resume_after: int | None) -> AsyncIterator[str]:
    yield HEARTBEAT  # the response's head goes out before the first change
    async for stored in feed.stream(resume_after):
        yield HEARTBEAT if stored is None else _text(stored)


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
