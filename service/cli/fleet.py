"""`tinyfleet fleet`: the whole at a glance."""

import typer

from service.cli.client import connect
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_facts, print_json

app = typer.Typer(help="The whole fleet.", no_args_is_help=True)


@app.callback()
def fleet() -> None:
    """The whole fleet."""


@app.command()
def summary(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """Summarise devices, rollouts, telemetry and attestations."""
    with connect(operator_dir) as client:
        answer = client.get("/fleet/summary")
    print_json(answer) if as_json else print_facts(answer)
