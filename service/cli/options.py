"""Options that several commands share."""

import re
from pathlib import Path
from typing import Annotated

import typer

from service.cli.errors import BadArgumentError

_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")


def one_id(text: str | None) -> str | None:
    """Return an id that makes one segment of a path, and no way to another resource.

    Raises:
        BadArgumentError: it is none.
    """
    if text is not None and _ID.fullmatch(text) is None:
        raise BadArgumentError(f"id: expected 1 to 128 letters, digits, '_' or '-', found {text[:128]!r}")
    return text


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
OperatorDirOption = Annotated[
    Path,
    typer.Option(
        "--operator-dir",
        envvar="TINYFLEET_OPERATOR_DIR",
        help="The operator's folder: offline keys, credential.json, working copy of the Image repository.",
    ),
]
DEFAULT_OPERATOR_DIR = Path("operator")
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask before signing.")]
ProposeOption = Annotated[
    Path | None,
    typer.Option("--propose", help="Write the proposal to this file for others to sign, and publish nothing yet."),
]
SecurityVersionOption = Annotated[int, typer.Option(min=0, help="Anti-rollback counter, checked against a fuse.")]
ModelPackageOption = Annotated[
    Path | None, typer.Option("--out", help="Package file; default {name}-{version}-{core}.img.")
]
