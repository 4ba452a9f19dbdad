"""`tinyfleet fleet`: the whole at a glance, and what looks like an attack."""

from typing import Annotated

import typer

from service.cli.client import JsonObject, connect
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import moment, print_facts, print_json, print_table, short

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


@app.command()
def security(
    *,
    device: Annotated[str, typer.Option(help="Of this device alone; its whole id.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many events at most.")] = 50,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List the latest security events: refused updates with the attack they indicate, refusals at the gateway."""
    only = {"subject": device} if device else {}
    with connect(operator_dir) as client:
        events = client.get("/events", type="security", limit=limit, **only)["items"]
    if as_json:
        print_json(events)
        return
    print_table("Security events", ("at", "on", "attack", "rule", "release", "detail"), map(_security_row, events))


def _security_row(event: JsonObject) -> tuple[object, ...]:
    data = event["data"]
    return (
        moment(event["at"]),
        short(event["id"]),
        data.get("attack") or event["change"],
        data.get("rule"),
        data.get("release"),
        data.get("detail"),
    )
