"""How many connections the gateway takes is a setting of the service."""

import asyncio

import pytest

from tests.live_service import live_service
from tests.service_folder import Folders


@pytest.mark.parametrize("limit", [{"mqtt_connections_per_source": 2}, {"mqtt_connections": 2}])
async def test_connection_beyond_the_setting_is_closed_at_once(folders: Folders, limit: dict[str, int]) -> None:
    """Two are taken and wait for their TLS handshake, the third is not."""
    async with live_service(folders, **limit) as live:
        address = (live.addresses.mqtt_host, live.addresses.mqtt_port)
        taken = [await asyncio.open_connection(*address) for _ in range(2)]
        reader, writer = await asyncio.open_connection(*address)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        assert not any(reader.at_eof() for reader, _ in taken)
        for each in (writer, *(writer for _, writer in taken)):
            each.close()
