"""Witnesses over HTTP (C2SP tlog-witness): sends a checkpoint, reads what is said of it."""

import ssl
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path

import httpx

from protocol.errors import ProtocolError
from protocol.notes import MAX_NOTE_BYTES, SignatureKind, parse_vkey
from protocol.tlog import parse_decimal
from service.application.checkpoints import Witness, WitnessAnswer, WitnessError
from service.config import SettingsError

TIMEOUT_SECONDS = 10.0
SIZE_MEDIA_TYPE = "text/x.tlog.size"
_URL_SCHEMES = ("https://", "http://")


class HttpWitnesses:
    """Implements `WitnessClient`.

    Args:
        ca_file: PEM certificates that a witness's TLS certificate may chain to; None for the machine's.
    """

    def __init__(self, ca_file: Path | None = None) -> None:
        context = ssl.create_default_context(cafile=ca_file)
        self._http = httpx.AsyncClient(verify=context, timeout=TIMEOUT_SECONDS, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def add_checkpoint(self, url: str, body: bytes) -> WitnessAnswer:
        """See `WitnessClient.add_checkpoint`."""
        try:
            async with self._http.stream("POST", f"{url}/add-checkpoint", content=body) as answer:
                text = await _text(answer)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            found = str(error) or type(error).__name__
            raise WitnessError(f"{url}: expected the witness to answer, found: {found}") from error
        if answer.status_code == HTTPStatus.OK:
            return WitnessAnswer(cosignatures=text)
        if answer.status_code == HTTPStatus.CONFLICT and answer.headers.get("Content-Type") == SIZE_MEDIA_TYPE:
            return WitnessAnswer(seen_size=_size(url, text))
        raise WitnessError(f"{url}: expected a cosignature, found status {answer.status_code}: {text[:200]!r}")


def parse_witnesses(lines: Sequence[str]) -> tuple[Witness, ...]:
    """Read the setting `witnesses`: a verifier key, a space and a URL each.

    Raises:
        SettingsError: one is of another form.
    """
    return tuple(_witness(line) for line in lines)


def _witness(line: str) -> Witness:
    vkey, _, url = line.strip().partition(" ")
    try:
        key = parse_vkey(vkey, kind=SignatureKind.COSIGNATURE)
    except ProtocolError as error:
        raise SettingsError(f"witnesses: {error}") from error
    if not url.startswith(_URL_SCHEMES):
        raise SettingsError(f"witnesses: expected VKEY https://…, found {line[:80]!r}")
    return Witness(key, url.rstrip("/"))


async def _text(answer: httpx.Response) -> str:
    content = b""
    async for chunk in answer.aiter_bytes():
        content += chunk
        if len(content) > MAX_NOTE_BYTES:
            raise WitnessError(f"{answer.url}: expected at most {MAX_NOTE_BYTES} bytes, found more")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise WitnessError(f"{answer.url}: expected text, found other bytes") from error


def _size(url: str, text: str) -> int:
    try:
        return parse_decimal(text.removesuffix("\n"))
    except ProtocolError as error:
        raise WitnessError(f"{url}: {error}") from error
