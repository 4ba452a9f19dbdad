"""The ceremony's folders with offline keys that open at once, for tests that run many commands."""

import functools
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from pki import pkcs8
from pki.roles import OfflineKey
from tests.service_folder import Folders, make_folders

PASSPHRASE = "correct horse battery"


def make_quick_folders(target: Path) -> Folders:
    """Copy the ceremony's folders; the same keys are under a scrypt that costs nothing."""
    folders = make_folders(target)
    for role, content in _quick_keys().items():
        folders.keys.files.path(role).write_bytes(content)
    return folders


@functools.cache
def _quick_keys() -> Mapping[OfflineKey, bytes]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        keys = make_folders(Path(folder)).keys.files
        patch.setattr(pkcs8, "SCRYPT_N", 2)
        return {
            role: pkcs8.encrypt_private_key(keys.load(role).private_key, PASSPHRASE.encode()) for role in OfflineKey
        }
