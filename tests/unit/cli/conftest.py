"""An operator with the real ceremony's folders, and a service in memory."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from pki import pkcs8
from pki.keystore import PASSPHRASE_VARIABLE
from pki.roles import OfflineKey
from tests.service_folder import make_folders
from tests.unit.cli.offline_service import OfflineService, Operator, connect_to

PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="session")
def quick_keys(tmp_path_factory: pytest.TempPathFactory) -> Mapping[OfflineKey, bytes]:
    """The ceremony's offline keys under a scrypt that costs nothing: commands open them again and again."""
    keys = make_folders(tmp_path_factory.mktemp("ceremony")).keys
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pkcs8, "SCRYPT_N", 2)
        return {
            role: pkcs8.encrypt_private_key(keys.load(role).private_key, PASSPHRASE.encode()) for role in OfflineKey
        }


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_keys: Mapping[OfflineKey, bytes]) -> Operator:
    """An operator whose commands find the passphrase in the environment."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    monkeypatch.chdir(tmp_path)
    folders = make_folders(tmp_path / "data")
    for role, content in quick_keys.items():
        folders.keys.path(role).write_bytes(content)
    service = OfflineService(folders)
    connect_to(service, monkeypatch)
    return Operator(folders, service)
