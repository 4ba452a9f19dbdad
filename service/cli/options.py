"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
