"""An operator with the real ceremony's folders, and a service in memory."""

from pathlib import Path

import pytest

from pki.keystore import PASSPHRASE_VARIABLE
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tests.softhsm import softhsm
from tests.unit.cli.offline_service import OfflineService, Operator, connect_to

__all__ = ["operator", "softhsm"]


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operator:
    """An operator whose commands find the passphrase in the environment."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    monkeypatch.chdir(tmp_path)
    folders = make_quick_folders(tmp_path / "data")
    service = OfflineService(folders)
    connect_to(service, monkeypatch)
    return Operator(folders, service)
