"""A service's folder for tests: made by the real ceremony, once per process, and copied for each test."""

import functools
import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pki.authority import CertificateAuthority
from pki.ceremony import factory_authority, hold_ceremony
from pki.ceremony_declaration import usual_declaration
from pki.online import load_certificate, request_online_keys
from pki.stores import KeyStores, open_keys

ADMIN_TOKEN = "admin-token-of-tests"
TOKENS = {"admin": ADMIN_TOKEN, "releaser": "releaser-token", "operator": "operator-token", "viewer": "viewer-token"}
_PASSPHRASE = b"correct horse battery"


@dataclass(frozen=True, slots=True)
class Folders:
    """Both folders of `tinyfleet init`.

    Attributes:
        operator: the offline one.
        service: the service's data directory.
    """

    operator: Path
    service: Path

    @property
    def keys(self) -> KeyStores:
        """The offline keys."""
        return open_keys(self.operator, passphrase=lambda: _PASSPHRASE)

    @property
    def factory(self) -> CertificateAuthority:
        """The authority that issues IDevIDs."""
        return factory_authority(self.operator, self.keys)

    @property
    def root(self) -> CertificateAuthority:
        """The root authority."""
        certificate = load_certificate(self.operator / "certificates" / "root.pem")
        return CertificateAuthority([certificate], self.keys.load("root"))


def hold_test_ceremony(folder: Path) -> Folders:
    """Hold the ceremony; a keys.toml in one of the folders says which keys are in a token."""
    request_online_keys(folder / "service")
    hold_ceremony(
        folder,
        usual_declaration("Test catalog", participants=["Ada"], hostnames=[]),
        keys=open_keys(folder / "operator", passphrase=lambda: _PASSPHRASE),
        clock=lambda: datetime.now(UTC),  # noqa: TID251 - TLS reads the machine's clock, so certificates must, too
        confirm=lambda _number, _count, _text: None,
    )
    operators = [
        {"name": role, "role": role, "token_sha256": hashlib.sha256(token.encode()).hexdigest()}
        for role, token in TOKENS.items()
    ]
    (folder / "service" / "operators.json").write_text(json.dumps(operators))
    return Folders(operator=folder / "operator", service=folder / "service")


@functools.cache
def _ceremony() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tinyfleet-ceremony-"))
    hold_test_ceremony(folder)
    return folder


def make_folders(target: Path) -> Folders:
    """Copy the ceremony's folders to a new place."""
    shutil.copytree(_ceremony(), target, dirs_exist_ok=True)
    return Folders(operator=target / "operator", service=target / "service")
