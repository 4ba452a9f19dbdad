"""`tinyfleet`: commands, exit codes and error lines.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. Only `main` exits.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from importlib import import_module
from types import MappingProxyType
from typing import Annotated

import typer

from pki.errors import PkiError
from protocol.errors import ProtocolError
from service.cli.errors import CliError
from service.cli.output import remark
from tinyml.errors import TinymlError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
EXPECTED_ERRORS = (CliError, PkiError, ProtocolError, TinymlError, OSError)

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "init": "service.cli.init:init",
        "serve": "service.cli.serve:serve",
        "demo": "service.cli.demo:demo",
        "factory": "service.cli.factory:app",
        "image": "service.cli.images:app",
        "model": "service.cli.models:app",
        "golden": "service.cli.golden:app",
        "template": "service.cli.templates:app",
        "release": "service.cli.releases:app",
        "delta": "service.cli.deltas:app",
        "metadata": "service.cli.metadata:app",
        "device": "service.cli.devices:app",
        "catalog": "service.cli.catalogs:app",
        "product": "service.cli.products:app",
        "group": "service.cli.products:group_app",
        "sbom": "service.cli.sbom:app",
        "vex": "service.cli.vex:app",
        "rollout": "service.cli.rollouts:app",
        "telemetry": "service.cli.telemetry:app",
        "audit": "service.cli.audit:app",
        "log": "service.cli.log:app",
        "approval": "service.cli.approvals:app",
        "operator": "service.cli.operators:app",
        "fleet": "service.cli.fleet:app",
        "pki": "service.cli.pki:app",
    }
)

_verbose = ContextVar("verbose", default=False)


def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the cause of a failure.")] = False,
) -> None:
    """Security and over-the-air updates for fleets of microcontrollers that run TinyML models."""
    _verbose.set(verbose)


def make_app(arguments: Sequence[str]) -> typer.Typer:
    """Make the command line; if the arguments name a command, with this one alone, because imports take longest."""
    app = typer.Typer(name="tinyfleet", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    app.callback()(options)
    named = next((argument for argument in arguments if not argument.startswith("-")), "")
    for name in [named] if named in COMMANDS else COMMANDS:
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(module), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    """Run the command line and exit."""
    try:
        make_app(sys.argv[1:])()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except EXPECTED_ERRORS as error:
        remark(f"error: {error}")
        if _verbose.get():
            traceback.print_exception(error)
        sys.exit(error.exit_code if isinstance(error, CliError) else 1)


if __name__ == "__main__":
    main()
