"""Hold a declared ceremony and write the first operator's login: what `init` and `pki ceremony` do.

DIR/operator and DIR/service are made side by side; in production they live on two machines, and only csr/ and what the
ceremony signed travel between them. What was interrupted goes on where it stopped; what is finished is refused.
"""

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pki.ceremony import hold_ceremony
from pki.ceremony_declaration import DeclarationFile
from pki.files import PRIVATE_MODE, create_file
from pki.issuance import certificate_sha256
from pki.online import load_certificate, request_online_keys
from pki.roles import OfflineKey
from service.cli import clock
from service.cli.errors import CliError
from service.cli.offline_keys import PASSPHRASE_FILE, offline_keys
from service.cli.output import print_line

DEFAULT_URL = "https://localhost:8443"
_TOKEN_BYTES = 32
_PRIVATE_FOLDER = 0o700


class CeremonyHeldError(CliError):
    """The ceremony has been held already, or its login is damaged."""


@dataclass(frozen=True, slots=True)
class FirstOperator:
    """The first operator, an admin.

    Attributes:
        name: as audits will call it.
        url: where the operator's CLI will find the service.
    """

    name: str
    url: str


def hold(
    data_dir: Path,
    declared: DeclarationFile,
    operator: FirstOperator,
    *,
    generate_passphrase: bool,
    confirm: Callable[[int, int, str], None],
    adopt: bool = False,
) -> None:
    """Hold a ceremony in a data directory, or go on with it.

    Args:
        data_dir: gets operator/ and service/.
        declared: a verified declaration.
        operator: gets a login.
        generate_passphrase: make a passphrase and keep it in a file.
        confirm: see `hold_ceremony`.
        adopt: see `hold_ceremony`; the login that is there stays.

    Raises:
        CeremonyHeldError: it is finished, or the login is damaged.
        PkiError: see `hold_ceremony`.
    """
    operator_dir, service_dir = data_dir / "operator", data_dir / "service"
    if not adopt:
        _refuse_finished(service_dir)
    for folder in (operator_dir, service_dir):
        folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    if generate_passphrase and not (operator_dir / PASSPHRASE_FILE).exists():
        create_file(operator_dir / PASSPHRASE_FILE, secrets.token_urlsafe(_TOKEN_BYTES).encode(), mode=PRIVATE_MODE)
    is_new = not (operator_dir / "keys" / f"{OfflineKey.ROOT}.pem").exists()
    keys = offline_keys(operator_dir, is_new=is_new)
    request_online_keys(service_dir)
    transcript = hold_ceremony(data_dir, declared, keys=keys, clock=clock.now, confirm=confirm, adopt=adopt)
    if not (service_dir / "operators.json").exists():
        _write_login(operator_dir, service_dir, operator)
    root = load_certificate(operator_dir / "certificates" / "root.pem")
    print_line(f"transcript: {transcript}")
    print_line(f"root certificate, SHA-256, to be written down: {certificate_sha256(root)}")
    print_line(f"offline keys: {operator_dir / 'keys'}; keep this folder away from the service")
    print_line(f"service: tinyfleet serve --data-dir {service_dir}")


def _refuse_finished(service_dir: Path) -> None:
    finished = service_dir / "operators.json"
    if finished.exists():
        raise CeremonyHeldError(
            f"ceremony: expected a folder without a finished ceremony, found {finished}; nothing changed"
        )


def _write_login(operator_dir: Path, service_dir: Path, operator: FirstOperator) -> None:
    """Write the token for the operator, then its hash for the service; the hash ends the ceremony."""
    credential = operator_dir / "credential.json"
    if not credential.exists():
        login = {"url": operator.url, "ca": "certificates/root.pem", "token": secrets.token_urlsafe(_TOKEN_BYTES)}
        create_file(credential, json.dumps(login).encode(), mode=PRIVATE_MODE)
    token = _token(credential)
    operators = [{"name": operator.name, "role": "admin", "token_sha256": hashlib.sha256(token.encode()).hexdigest()}]
    create_file(service_dir / "operators.json", json.dumps(operators).encode(), mode=PRIVATE_MODE)


def _token(credential: Path) -> str:
    try:
        return str(json.loads(credential.read_bytes())["token"])
    except (ValueError, KeyError, TypeError) as error:
        raise CeremonyHeldError(
            f"{credential}: expected the login that an interrupted ceremony wrote, found {type(error).__name__}"
        ) from error
