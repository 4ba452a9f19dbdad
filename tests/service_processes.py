"""Several service processes on one PostgreSQL, and devices that hold connections to one of them."""

import asyncio
import json
import shutil
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.bootstrap.service import RunningService
from service.config import load_settings
from tests.attesting_device import AttestingDevice
from tests.integration.gateway.mqtt_peer import connect_packet
from tests.live_service import Credential, LiveService, OffsetClock
from tests.service_folder import ADMIN_TOKEN, Folders

PATIENCE_SECONDS = 30.0  # far above what anything takes; what does not come fails the test
SERVE = """
import sys
from pathlib import Path
from service.bootstrap.service import serve
from service.config import load_settings
serve(load_settings(Path(sys.argv[1])))
"""


@dataclass
class ServiceProcess(LiveService):
    """A service in a process of its own."""

    process: asyncio.subprocess.Process


@asynccontextmanager
async def service_process(
    folders: Folders, name: str, database: str, **settings: object
) -> AsyncIterator[ServiceProcess]:
    """Run a process with the keys of a service, on a data directory of its own and a database that others share."""
    data_dir = folders.service.parent / name
    shutil.copytree(folders.service, data_dir)
    artifacts = data_dir.parent / "artifacts"
    artifacts.mkdir(exist_ok=True)
    ports = {"operator_port": 0, "device_port": 0, "mqtt_port": 0}
    shared = {
        "database_url": database,
        "telemetry_url": database,
        "artifacts_url": artifacts.as_uri(),
    }
    wanted = {"data_dir": str(data_dir), **ports, **shared, **settings}
    file = data_dir / "settings.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in wanted.items()))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(file), stderr=asyncio.subprocess.PIPE
    )
    reading = asyncio.create_task(_read(process))
    try:
        addresses = await _ready(process, data_dir)
        async with httpx.AsyncClient(
            verify=ssl.create_default_context(cafile=str(addresses.ca)),
            base_url=f"{addresses.operator_url}/api/v1",
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
        ) as operator:
            loaded = load_settings(file)
            yield ServiceProcess(folders, loaded, OffsetClock(), addresses, operator, process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


async def _read(process: asyncio.subprocess.Process) -> None:
    """Keep the pipe of the log empty."""
    assert process.stderr is not None
    async for line in process.stderr:
        sys.stderr.write(line.decode())  # shown with a test that fails


async def _ready(process: asyncio.subprocess.Process, data_dir: Path) -> RunningService:
    file = data_dir / "service.json"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not file.exists():
            if process.returncode is not None:
                raise AssertionError("the service ended before it was ready")
            await asyncio.sleep(0.05)
    content = json.loads(file.read_bytes())
    return RunningService(
        operator_url=content["operator_url"],
        device_url=content["device_url"],
        mqtt_host=content["mqtt_host"],
        mqtt_port=content["mqtt_port"],
        ca=Path(content["ca"]),
    )


def remark(measured: str) -> None:
    """Say what was measured, for who runs the test with -s; nothing is asserted of it."""
    sys.stdout.write(f"\n{measured}\n")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds, and fail if it never does."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not await holds():  # noqa: ASYNC110 - nothing here sets an event
            await asyncio.sleep(0.02)  # the condition is another process's


async def polls(live: LiveService, device: AttestingDevice, credential: Credential) -> int:
    """Poll on a connection of its own and return the status."""
    async with live.https(device, credential) as https:
        return (await https.get("/poll")).status_code


async def is_let_in(live: LiveService, device: AttestingDevice, credential: Credential) -> bool:
    """Say whether a device may poll."""
    return await polls(live, device, credential) == httpx.codes.OK


async def idle_https(
    live: LiveService, device: AttestingDevice, credential: Credential
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a connection that has polled once and is kept alive."""
    port = httpx.URL(live.addresses.device_url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=live.tls(device, credential))
    writer.write(b"GET /device/v1/poll HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return reader, writer


@dataclass(frozen=True, slots=True)
class Resumable:
    """A TLS session of a device with one listener, and what it asks there."""

    port: int
    context: ssl.SSLContext
    request: bytes
    session: ssl.SSLSession | None = None

    def ask(self) -> tuple[bytes, "Resumable", bool]:
        """Connect, ask, and return the beginning of the answer, the session, and whether it was resumed."""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS) as plain,
            self.context.wrap_socket(plain, server_hostname="127.0.0.1", session=self.session) as tls,
        ):
            tls.sendall(self.request)
            answer = tls.recv(4096)
            while answer.startswith(b"HTTP") and tls.recv(4096):
                pass  # the session resumes only if the service has closed cleanly
            following = Resumable(self.port, self.context, self.request, tls.session)
            return answer, following, bool(tls.session_reused)


def resumable_sessions(live: LiveService, device: AttestingDevice, credential: Credential) -> list[Resumable]:
    """Open and close a session by TLS 1.2 and 1.3 with both listeners of devices."""
    found = []
    port = httpx.URL(live.addresses.device_url).port or 0
    poll = b"GET /device/v1/poll HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        for where, request in ((port, poll), (live.addresses.mqtt_port, connect_packet(device.device_id))):
            context = live.tls(device, credential)
            context.minimum_version = context.maximum_version = version
            answer, session, _ = Resumable(where, context, request).ask()
            assert is_welcome(answer), answer
            found.append(session)
    return found


def is_welcome(answer: bytes) -> bool:
    """Say whether an answer is HTTP 200 or an accepting CONNACK."""
    return answer.startswith(b"HTTP/1.1 200") or answer == b"\x20\x02\x00\x00"


def is_refused(answer: bytes) -> bool:
    """Say whether an answer is HTTP 403, a CONNACK with `not authorised`, or the end of the connection."""
    return answer.startswith(b"HTTP/1.1 403") or answer in {b"\x20\x02\x00\x05", b""}
