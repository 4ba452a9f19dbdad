"""A catalog from before there were patches gets them by a command."""

from base64 import b64encode
from pathlib import Path

import pytest
from tuf.api.metadata import Targets

from pki.metadata import add_signature, targets_metadata
from pki.next_state import trusted
from pki.roles import OfflineKey
from service.cli.errors import BadArgumentError
from tests.integration.cli.people import Team, live_team


async def _without_patches(team: Team) -> None:
    """Bring the catalog to where it delegates nothing, as the first ones did."""
    answer = await team.service.operator.get("/repository/image/targets.json")
    current = trusted(answer.content, Targets)
    unsigned = targets_metadata(current.targets.values(), version=current.version + 1, expires=current.expires)
    signed = add_signature(unsigned, team.service.folders.keys.load(OfflineKey.IMAGE_TARGETS))
    body = {"metadata": {"targets": b64encode(signed).decode()}}
    (await team.service.operator.post("/repository/image/targets", json=body)).raise_for_status()


async def test_earlier_catalog_gets_patches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The delegation comes into force with the service's first file; a second time there is nothing to do."""
    async with live_team(tmp_path, monkeypatch) as team:
        await _without_patches(team)
        assert "image deltas" not in await team.versions()
        await team.ada.does("metadata", "patches", "enable", "--yes")
        assert "image deltas" in await team.versions()
        assert isinstance(await team.ada.fails("metadata", "patches", "enable", "--yes"), BadArgumentError)
