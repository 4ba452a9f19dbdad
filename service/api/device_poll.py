"""GET /device/v1/poll as plain ASGI: the one path that every device asks, so nothing stands around it.

The gate has checked certificate and standing before (`service.api.device_gate`); the answer comes from memory.
"""

from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from service.api.device_gate import BASE_PATH, peer_of
from service.application.poll import Poll

POLL_PATH = f"{BASE_PATH}/poll"


class PollEndpoint:
    """An ASGI app that answers polls.

    Args:
        poll: answers.
        fleet_size: returns how many devices poll.
    """

    def __init__(self, poll: Poll, *, fleet_size: Callable[[], int]) -> None:
        self._poll = poll
        self._fleet_size = fleet_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - no body is read
        """Serve one poll."""
        if scope["method"] != "GET":
            await _send(send, 405, b"", [(b"allow", b"GET")])
            return
        reply = self._poll.reply(peer_of(scope).device_id, fleet_size=self._fleet_size())
        await _send(send, 200, reply.model_dump_json().encode(), [(b"content-type", b"application/json")])


async def _send(send: Send, status: int, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
