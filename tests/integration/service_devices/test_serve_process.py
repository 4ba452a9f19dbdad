"""`serve` as a process of its own: ready file, signals, one process per folder, clear refusals."""

import asyncio
import json
import signal
import ssl
import sys

import httpx
import pytest

from tests.service_folder import ADMIN_TOKEN, Folders

SERVE = """
import sys
from pathlib import Path
from service.bootstrap.service import serve
from service.config import load_settings
from service.domain.errors import ServiceError
try:
    serve(load_settings(Path(sys.argv[1])))
except ServiceError as error:
    sys.exit(f"error: {error}")
"""


async def start(folders: Folders, settings: str = "") -> asyncio.subprocess.Process:
    file = folders.service / "settings.toml"
    ports = "operator_port = 0\ndevice_port = 0\nmqtt_port = 0\n"
    file.write_text(f'data_dir = "{folders.service}"\n{ports}{settings}')
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


async def ready(process: asyncio.subprocess.Process, folders: Folders) -> dict[str, object]:
    """Return service.json once the process has written it."""
    assert process.stderr is not None
    async with asyncio.timeout(60):
        async for line in process.stderr:
            if json.loads(line).get("event") == "ready":
                content: dict[str, object] = json.loads((folders.service / "service.json").read_text())
                return content
    raise AssertionError("the service ended before it was ready")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_ends_it_cleanly_with_open_connections(folders: Folders, number: signal.Signals) -> None:
    """Exit code 0, no ready file left, although a client follows a stream."""
    process = await start(folders)
    service = await ready(process, folders)
    assert service["pid"] == process.pid
    assert (folders.service / "service.json").stat().st_mode & 0o777 == 0o600
    context = ssl.create_default_context(cafile=str(service["ca"]))
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with (
        httpx.AsyncClient(verify=context, base_url=str(service["operator_url"]), headers=headers) as client,
        client.stream("GET", "/api/v1/stream") as stream,
    ):
        lines = stream.aiter_lines()
        await anext(lines)
        process.send_signal(number)
        async with asyncio.timeout(30):
            _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    assert not (folders.service / "service.json").exists()


async def test_second_process_on_a_folder_is_refused(folders: Folders) -> None:
    """Two processes would share the folder's database, ports file and sessions."""
    first = await start(folders)
    await ready(first, folders)
    second = await start(folders)
    _, errors = await second.communicate()
    assert second.returncode == 1
    assert b"expected no other service on it, found one running" in errors
    first.terminate()
    await first.communicate()


async def test_killed_service_starts_again(folders: Folders) -> None:
    """Nothing that a killed process leaves behind keeps the next one from starting."""
    first = await start(folders)
    await ready(first, folders)
    first.kill()
    await first.communicate()
    second = await start(folders)
    service = await ready(second, folders)
    assert service["pid"] == second.pid
    second.terminate()
    await second.communicate()
    assert second.returncode == 0


async def test_missing_key_is_named(folders: Folders) -> None:
    """A folder without the ceremony's results ends in one line that says what is missing."""
    (folders.service / "keys" / "issuing-ca.pem").unlink()
    process = await start(folders)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"error: start: key issuing-ca: expected" in errors
    assert b"Traceback" not in errors


async def test_taken_port_is_named(folders: Folders) -> None:
    """An address in use ends in one line."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    file = folders.service / "settings.toml"
    file.write_text(f'data_dir = "{folders.service}"\noperator_port = {port}\ndevice_port = 0\nmqtt_port = 0\n')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(file), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, errors = await process.communicate()
    server.close()
    await server.wait_closed()
    assert process.returncode == 1
    assert b"error: start: " in errors
    assert b"in use" in errors


async def test_service_runs_on_postgresql(folders: Folders, postgresql_url: str) -> None:
    """The same service with both databases on PostgreSQL."""
    process = await start(folders, f'database_url = "{postgresql_url}"\ntelemetry_url = "{postgresql_url}"\n')
    service = await ready(process, folders)
    context = ssl.create_default_context(cafile=str(service["ca"]))
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    async with httpx.AsyncClient(verify=context, base_url=str(service["operator_url"]), headers=headers) as client:
        assert (await client.post("/api/v1/products", json={"name": "Camera"})).status_code == 201
        assert (await client.get("/api/v1/fleet/summary")).json()["telemetry_stored"] == 0
    process.terminate()
    await process.communicate()
    assert process.returncode == 0
    assert not (folders.service / "tinyfleet.db").exists()
