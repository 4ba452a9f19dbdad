"""`tinyfleet operator`: who may use the service."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pki import profiles
from pki.authority import chain_pem
from pki.ceremony import root_authority
from pki.files import PRIVATE_MODE, PUBLIC_MODE, create_file
from pki.issuance import OPERATOR_LOG_FILE, IssuanceKind, append_to_file, facts_of
from protocol.signing import SoftwareSigner
from service.cli import clock
from service.cli.client import connect
from service.cli.errors import AnswerError, CredentialError
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_json, print_table, remark

app = typer.Typer(help="Operators and their roles.", no_args_is_help=True)

_OPERATOR_NAME = re.compile(r"[A-Za-z0-9_@-][A-Za-z0-9._@-]{0,63}")


@app.command()
def add(
    name: str,
    *,
    role: Annotated[str, typer.Option(help="viewer, operator, releaser or admin.")],
    token_file: Annotated[Path, typer.Option(help="New file that takes the token, readable by you alone.")],
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Add an operator; the token goes to a file and is never printed."""
    # The file comes first: a token that cannot be written down would be lost.
    try:
        descriptor = os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise CredentialError(f"{token_file}: expected to create a new file, found {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        try:
            with connect(operator_dir) as client:
                file.write(client.post("/operators", {"name": name, "role": role})["token"])
        except BaseException:
            token_file.unlink()
            raise
    remark(f"{name}: added as {role}, token in {token_file}")


@app.command()
def certificate(
    name: Annotated[str, typer.Argument(help="An operator who has been added; the role stays the service's to say.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder that gets {name}.pem and {name}.key.", file_okay=False)] = Path(),
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Issue a client certificate, in the place of a token, for programs that speak to the API."""
    if not _OPERATOR_NAME.fullmatch(name):
        raise CredentialError(f"operator: expected letters, digits and ._@-, found {name!r}")
    root, signer = root_authority(operator_dir, offline_keys(operator_dir)), SoftwareSigner.generate()
    now = clock.now()
    leaf = root.issue(profiles.operator_client(name, now=now), signer.public_key)
    key = signer.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    facts = facts_of(leaf, kind=IssuanceKind.OPERATOR, issuer=root.certificate, at=now)
    append_to_file(operator_dir / OPERATOR_LOG_FILE, [facts])
    try:
        create_file(out / f"{name}.key", key, mode=PRIVATE_MODE)
        create_file(out / f"{name}.pem", chain_pem([leaf]), mode=PUBLIC_MODE)
    except OSError as error:
        raise CredentialError(f"{out}: expected to create new files, found {error.strerror}") from error
    remark(f"{name}: certificate {out / name}.pem, ends {leaf.not_valid_after_utc:%F}; key {out / name}.key")


@app.command("list")
def list_operators(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """List operators."""
    with connect(operator_dir) as client:
        operators = list(client.items("/operators"))
    if as_json:
        print_json(operators)
        return
    print_table("Operators", ("name", "role"), ((entry["name"], entry["role"]) for entry in operators))


@app.command()
def remove(name: str, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Remove an operator; the token stops working at once."""
    with connect(operator_dir) as client:
        found = [entry["id"] for entry in client.items("/operators") if entry["name"] == name]
        if not found:
            raise AnswerError(f"operator: expected one of that name, found no {name}")
        client.delete(f"/operators/{found[0]}")
    remark(f"{name}: removed")
