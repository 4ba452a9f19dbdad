"""Telemetry: page, count, follow."""

import base64
import json
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from service.api.auth import ViewerActor
from service.api.paging import DEFAULT_ITEMS, MAX_ITEMS
from service.api.services import ServicesParameter
from service.api.sse import HEARTBEAT, STREAM_RESPONSES, LastEventId, event_text, stream_response
from service.application.messaging import MessageFilter, MessageKind, StoredMessage
from service.application.telemetry import Telemetry

DEVICE_ID_DIGITS = 128

router = APIRouter(prefix="/telemetry", tags=["telemetry"])


class MessageModel(BaseModel):
    """A stored message; `payload` is its JSON, or `{"base64": ...}` where it is none."""

    id: int
    device_id: str
    kind: MessageKind
    stream: str
    received_at: datetime
    payload: Any


class MessageList(BaseModel):
    """Messages, oldest first; ask again with `after` = `next_after`."""

    items: list[MessageModel]
    next_after: int


class MessageCount(BaseModel):
    """How many messages are stored."""

    count: int


async def _message_filter(
    services: ServicesParameter,
    device: Annotated[
        str | None, Query(pattern=r"^[0-9a-f]{8,128}$", description="Device id, or a unique beginning of 8 digits.")
    ] = None,
    stream: Annotated[str | None, Query(max_length=64)] = None,
    kind: MessageKind | None = MessageKind.TELEMETRY,
) -> MessageFilter:
    if device is not None and len(device) < DEVICE_ID_DIGITS:
        device = (await services.devices.get(device)).device.device_id
    return MessageFilter(device_id=device, kind=kind, stream=stream)


Selection = Annotated[MessageFilter, Depends(_message_filter)]
MessageId = Annotated[int, Query(ge=0, le=2**53)]


@router.get("")
async def list_telemetry(
    _actor: ViewerActor,
    services: ServicesParameter,
    selection: Selection,
    after: MessageId = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_ITEMS)] = DEFAULT_ITEMS,
) -> MessageList:
    """List messages with ids above `after`, oldest first."""
    found = await services.telemetry.after(selection, after_id=after, limit=limit)
    return MessageList(
        items=[_model(message) for message in found], next_after=found[-1].message_id if found else after
    )


@router.get("/count")
async def count_telemetry(_actor: ViewerActor, services: ServicesParameter, selection: Selection) -> MessageCount:
    """Count stored messages."""
    return MessageCount(count=await services.telemetry.count(selection))


@router.get("/stream", response_class=StreamingResponse, responses=STREAM_RESPONSES)
async def stream_telemetry(
    _actor: ViewerActor, services: ServicesParameter, selection: Selection, resume_after: LastEventId
) -> StreamingResponse:
    """Follow messages as they become durable."""
    return stream_response(_messages(services.telemetry, selection, resume_after))


async def _messages(telemetry: Telemetry, selection: MessageFilter, resume_after: int | None) -> AsyncIterator[str]:
    yield HEARTBEAT  # the response's head goes out before the first message
    async for message in telemetry.follow(selection, after_id=resume_after):
        yield HEARTBEAT if message is None else _text(message)


def _text(message: StoredMessage) -> str:
    return event_text(message.message_id, message.kind, _model(message).model_dump_json())


def _model(message: StoredMessage) -> MessageModel:
    return MessageModel(
        id=message.message_id,
        device_id=message.device_id,
        kind=message.kind,
        stream=message.stream,
        received_at=message.received_at,
        payload=_payload(message.payload),
    )


def _payload(payload: bytes) -> Any:  # noqa: ANN401 - whatever JSON the device sent
    try:
        return json.loads(payload, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return {"base64": base64.b64encode(payload).decode()}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"JSON: expected a number, found {name}")
