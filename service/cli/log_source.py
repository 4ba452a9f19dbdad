"""Where an auditor gets a log from: its public endpoints over HTTP, without a credential."""

import ssl
import time
from http import HTTPStatus
from pathlib import Path

import httpx

from protocol.notes import MAX_NOTE_BYTES
from protocol.tiles import MAX_BUNDLE_BYTES, Tile
from service.cli.errors import AnswerError, BadArgumentError, ServiceUnreachableError

TIMEOUT_SECONDS = 30.0
MAX_ATTEMPTS = 60  # of one request that is put off, or finds nobody
LONGEST_PAUSE_SECONDS = 10.0
DEFAULT_PAUSE_SECONDS = 1.0
_LATER = frozenset({HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})


class LogSource:
    """One log.

    Args:
        url: prefix of the log, such as https://fleet.example:8443/tlog.
        ca: PEM certificates that the server's must chain to; None for the machine's.

    Raises:
        BadArgumentError: the certificates cannot be read.
    """

    def __init__(self, url: str, *, ca: Path | None) -> None:
        try:
            context = ssl.create_default_context(cafile=ca)
        except (OSError, ssl.SSLError) as error:
            raise BadArgumentError(f"{ca}: expected PEM certificates, found: {error}") from error
        self._url = url.rstrip("/")
        self._http = httpx.Client(verify=context, timeout=TIMEOUT_SECONDS, trust_env=False)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def checkpoint(self) -> bytes:
        """Fetch the newest checkpoint, unverified.

        Raises:
            ServiceUnreachableError, AnswerError: it cannot be had.
        """
        return self._fetch("checkpoint", MAX_NOTE_BYTES)

    def tile(self, tile: Tile) -> bytes:
        """Fetch a tile, unverified. Raises as `checkpoint`."""
        return self._fetch(f"tile/{tile.path()}", MAX_BUNDLE_BYTES)

    def _fetch(self, name: str, max_bytes: int) -> bytes:
        for _ in range(MAX_ATTEMPTS):
            status, content, pause_seconds = self._once(name, max_bytes)
            if status == HTTPStatus.OK:
                return content
            if status not in _LATER:
                raise AnswerError(f"{self._url}/{name}: expected 200, found {status}: {content[:200]!r}")
            time.sleep(pause_seconds)
        raise ServiceUnreachableError(f"{self._url}/{name}: expected an answer, was put off {MAX_ATTEMPTS} times")

    def _once(self, name: str, max_bytes: int) -> tuple[int, bytes, float]:
        content = b""
        try:
            with self._http.stream("GET", f"{self._url}/{name}") as answer:
                for chunk in answer.iter_bytes():
                    content += chunk
                    if len(content) > max_bytes:
                        raise AnswerError(f"{self._url}/{name}: expected at most {max_bytes} bytes, found more")
                return answer.status_code, content, _pause_seconds(answer.headers.get("Retry-After", ""))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            found = str(error) or type(error).__name__
            raise ServiceUnreachableError(f"{self._url}: expected the log to answer, found: {found}") from error


def _pause_seconds(retry_after: str) -> float:
    if not (retry_after.isascii() and retry_after.isdigit()):
        return DEFAULT_PAUSE_SECONDS
    return min(float(retry_after), LONGEST_PAUSE_SECONDS)
