"""The folders of `tinyfleet init` with every key in SoftHSM2 that can be there."""

import hashlib
import json
from pathlib import Path

from typer.testing import CliRunner, Result

from pki.pkcs11 import TokenSigner
from pki.roles import LOG_KEY, OfflineKey, OnlineKey
from pki.stores import open_keys
from service.cli.main import make_app
from tests.service_folder import TOKENS, Folders
from tests.softhsm import SoftHsm

OFFLINE_ROLES = [role.value for role in OfflineKey]
# OpenSSL reads the key of TLS.
ONLINE_ROLES = [*(role.value for role in OnlineKey if role is not OnlineKey.SERVER), LOG_KEY]


def run(*arguments: object) -> Result:
    """Run `tinyfleet`."""
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(make_app(words), words)


def init(data_dir: Path) -> Result:
    """Hold the ceremony."""
    return run("init", "--data-dir", data_dir, "--generate-passphrase")


def route_everything(data_dir: Path, hsm: SoftHsm) -> None:
    """Put every role that can be in a token into two: the operator's and the service's."""
    hsm.add_token("operator")
    hsm.add_token("service")
    hsm.route(data_dir / "operator", OFFLINE_ROLES, "operator")
    hsm.route(data_dir / "service", ONLINE_ROLES, "service")


def folders_in_tokens(data_dir: Path, hsm: SoftHsm) -> Folders:
    """Hold the ceremony with every key in a token; the tests' operators may log in."""
    route_everything(data_dir, hsm)
    result = init(data_dir)
    assert result.exit_code == 0, (result.output, result.exception)
    operators = [
        {"name": role, "role": role, "token_sha256": hashlib.sha256(token.encode()).hexdigest()}
        for role, token in TOKENS.items()
    ]
    (data_dir / "service" / "operators.json").write_text(json.dumps(operators))
    return Folders(operator=data_dir / "operator", service=data_dir / "service")


def move_to_token(service: Path, role: str) -> TokenSigner:
    """Move a service's key from its file into the token that its keys.toml names."""
    stores = open_keys(service, passphrase=None)
    signer = stores.tokens["hsm"].take(role, stores.files.load(role).private_key)
    stores.files.path(role).unlink()
    return signer
