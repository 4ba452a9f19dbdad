"""Requests over a path: what gets through takes its time, what does not fails as it would on the network."""

from collections.abc import Mapping

from device_sim.network.ports import HttpResponse, HttpTransport, SlowRetrievalError, UnreachableError
from device_sim.network.quality import NetworkPath


class ShapedTransport:
    """An `HttpTransport` behind a device's network.

    Args:
        inner: sends what gets through.
        path: decides, counts, and is owed the time.
        limit_seconds: what the device waits at most for an answer.
    """

    def __init__(self, inner: HttpTransport, path: NetworkPath, *, limit_seconds: float) -> None:
        self._inner = inner
        self._path = path
        self._limit_seconds = limit_seconds
        self._last_traffic = path.now

    def request(
        self,
        method: str,
        path: str,
        *,
        max_bytes: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> HttpResponse:
        """Send one request; raises as `HttpTransport.request`."""
        if reason := self._path.closed_because:
            self.close()
            raise UnreachableError(f"{path}: expected a way to the service, found that {reason}")
        if self._path.forgets(self._last_traffic):
            self.close()
        crossing = self._path.exchange(self._limit_seconds)
        self._path.owe(crossing.seconds)
        if not crossing.request_arrives:
            raise self._lost(path)
        before = self._path.meter.bytes
        response = self._inner.request(method, path, max_bytes=max_bytes, body=body, headers=headers)
        self._last_traffic = self._path.now
        self._path.owe(self._path.transfer_seconds(self._path.meter.bytes - before))
        if not crossing.answer_arrives:
            raise self._lost(path)
        return response if self._path.interference is None else self._path.interference(path, response)

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        self._inner.close()

    def _lost(self, path: str) -> SlowRetrievalError:
        self.close()
        return SlowRetrievalError(f"{path}: expected an answer within {self._limit_seconds:g} s, found it lost")
