"""Server-sent events (WHATWG HTML §9.2): one event per change, a comment as a heartbeat, resumable by Last-Event-ID."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, Header
from fastapi.responses import StreamingResponse

HEARTBEAT = ": heartbeat\n\n"
STREAM_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events, until the client closes the connection.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


def event_text(event_id: int, kind: str, data: str) -> str:
    """Return one event.

    Args:
        event_id: what a client resumes by.
        kind: event type.
        data: one line, JSON.
    """
    return f"id: {event_id}\nevent: {kind}\ndata: {data}\n\n"


def stream_response(events: AsyncIterator[str]) -> StreamingResponse:
    """Return a stream that no proxy holds back."""
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def last_event_id(
    header: Annotated[
        int | None, Header(alias="Last-Event-ID", ge=0, le=2**53, description="Resume after this event.")
    ] = None,
) -> int | None:
    """Return after which event to resume; None for now."""
    return header


LastEventId = Annotated[int | None, Depends(last_event_id)]
