"""`tinyfleet init`: the key ceremony, and the first operator's login.

DIR/operator and DIR/service are made side by side; in production they live on two machines, and only csr/ and what
the ceremony signed travel between them. An interrupted ceremony goes on where it stopped; a finished one is refused.
"""

import hashlib
import json
import secrets
from pathlib import Path
from typing import Annotated

import typer

from pki.ceremony import hold_ceremony
from pki.files import PRIVATE_MODE, create_file
from pki.keystore import KeyStore
from pki.online import request_online_keys
from service.cli import clock
from service.cli.errors import CliError
from service.cli.offline_keys import PASSPHRASE_FILE, offline_keys
from service.cli.output import print_line

DEFAULT_URL = "https://localhost:8443"
_TOKEN_BYTES = 32
_PRIVATE_FOLDER = 0o700


class CeremonyError(CliError):
    """The ceremony has been held already, or cannot be held here."""


def init(
    *,
    data_dir: Annotated[Path, typer.Option(help="Folder that gets operator/ and service/.")],
    hostname: Annotated[
        list[str] | None, typer.Option(help="DNS name or IP address of the service besides loopback; may be repeated.")
    ] = None,
    catalog: Annotated[str, typer.Option(help="Name of the catalog, the tenant.")] = "tinyfleet",
    operator: Annotated[str, typer.Option(help="Name of the first operator, an admin.")] = "admin",
    url: Annotated[str, typer.Option(help="Where the operator's CLI will find the service.")] = DEFAULT_URL,
    generate_passphrase: Annotated[
        bool,
        typer.Option("--generate-passphrase", help="Make a passphrase and keep it in operator/passphrase, mode 0600."),
    ] = False,
) -> None:
    """Make the offline keys, sign the service's online keys, and write the first operator's login."""
    operator_dir, service_dir = data_dir / "operator", data_dir / "service"
    _check_catalog_name(catalog)
    _refuse_finished(service_dir)
    for folder in (operator_dir, service_dir):
        folder.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    if generate_passphrase and not (operator_dir / PASSPHRASE_FILE).exists():
        create_file(operator_dir / PASSPHRASE_FILE, secrets.token_urlsafe(_TOKEN_BYTES).encode(), mode=PRIVATE_MODE)
    request_online_keys(service_dir)
    hold_ceremony(
        operator_dir,
        service_dir,
        keys=_open_keys(operator_dir),
        catalog_name=catalog,
        hostnames=hostname or [],
        now=clock.now(),
    )
    _write_login(operator_dir, service_dir, name=operator, url=url)
    print_line(f"offline keys: {operator_dir / 'keys'}; keep this folder away from the service")
    print_line(f"service: tinyfleet serve --data-dir {service_dir}")


def _refuse_finished(service_dir: Path) -> None:
    finished = service_dir / "operators.json"
    if finished.exists():
        raise CeremonyError(f"init: expected a folder without a finished ceremony, found {finished}; nothing changed")


def _open_keys(operator_dir: Path) -> KeyStore:
    return offline_keys(operator_dir, is_new=not any((operator_dir / "keys").glob("*.pem")))


def _check_catalog_name(name: str) -> None:
    # With " LDevID issuer" it must fit a common name (X.520: 64 characters).
    if not 0 < len(name) <= 50 or not name.isprintable():  # noqa: PLR2004
        raise CeremonyError(f"catalog name: expected 1 to 50 printable characters, found {len(name)}: {name[:60]!r}")


def _write_login(operator_dir: Path, service_dir: Path, *, name: str, url: str) -> None:
    """Write the token for the operator, then its hash for the service; the hash ends the ceremony."""
    credential = operator_dir / "credential.json"
    if not credential.exists():
        login = {"url": url, "ca": "certificates/root.pem", "token": secrets.token_urlsafe(_TOKEN_BYTES)}
        create_file(credential, json.dumps(login).encode(), mode=PRIVATE_MODE)
    token = _token(credential)
    operators = [{"name": name, "role": "admin", "token_sha256": hashlib.sha256(token.encode()).hexdigest()}]
    create_file(service_dir / "operators.json", json.dumps(operators).encode(), mode=PRIVATE_MODE)


def _token(credential: Path) -> str:
    try:
        return str(json.loads(credential.read_bytes())["token"])
    except (ValueError, KeyError, TypeError) as error:
        raise CeremonyError(
            f"{credential}: expected the login that an interrupted ceremony wrote, found {type(error).__name__}"
        ) from error
