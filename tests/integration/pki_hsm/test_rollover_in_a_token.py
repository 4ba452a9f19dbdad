"""The issuing CA's rollover with its keys in a token: the next generation is made where the one before is."""

from pathlib import Path

from tests.integration.pki_hsm.token_world import folders_in_tokens
from tests.integration.service_devices.rolling_over import chain_of, connects, roll_over, states
from tests.live_service import live_service
from tests.softhsm import SoftHsm


async def test_rollover_in_a_token_leaves_no_key_file(softhsm: SoftHsm, tmp_path: Path) -> None:
    """Both generations' devices connect, and a restart finds the new key."""
    folders = folders_in_tokens(tmp_path, softhsm)
    async with live_service(folders) as live:
        device = await live.claimed()
        old = await live.attest(device)
        await roll_over(live)
        new = await live.attest(device)
        for credential in (old, new):
            await connects(live, device, credential)
        assert len(chain_of(new)) == 3
    assert [path.name for path in (folders.service / "keys").iterdir()] == ["server.pem"]
    async with live_service(folders) as live:
        assert await states(live) == ["trusted", "active"]
        await connects(live, device, await live.attest(device))
