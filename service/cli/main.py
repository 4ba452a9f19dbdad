"""`tinyfleet`: commands, exit codes and error lines.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. Only `main` exits.
"""

import sys
import traceback
from contextvars import ContextVar
from typing import Annotated

import typer

from pki.errors import PkiError
from protocol.errors import ProtocolError
from service.cli import audit, devices, fleet, operators, products, rollouts, telemetry
from service.cli.errors import CliError
from service.cli.output import remark
from tinyml.errors import TinymlError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

app = typer.Typer(
    name="tinyfleet",
    help="Security and over-the-air updates for fleets of microcontrollers that run TinyML models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(devices.app, name="device")
app.add_typer(products.app, name="product")
app.add_typer(products.group_app, name="group")
app.add_typer(rollouts.app, name="rollout")
app.add_typer(telemetry.app, name="telemetry")
app.add_typer(audit.app, name="audit")
app.add_typer(operators.app, name="operator")
app.add_typer(fleet.app, name="fleet")

EXPECTED_ERRORS = (CliError, PkiError, ProtocolError, TinymlError, OSError)

_verbose = ContextVar("verbose", default=False)


@app.callback()
def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the cause of a failure.")] = False,
) -> None:
    """Options of every command."""
    _verbose.set(verbose)


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except EXPECTED_ERRORS as error:
        remark(f"error: {error}")
        if _verbose.get():
            traceback.print_exception(error)
        sys.exit(error.exit_code if isinstance(error, CliError) else 1)


if __name__ == "__main__":
    main()
