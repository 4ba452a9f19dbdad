"""`tinyfleet operator`: who may use the service."""

import os
from pathlib import Path
from typing import Annotated

import typer

from service.cli.client import connect
from service.cli.errors import AnswerError, CredentialError
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_json, print_table, remark

app = typer.Typer(help="Operators and their roles.", no_args_is_help=True)


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
