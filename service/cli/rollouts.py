"""`tinyfleet rollout`: bring a release to a device group in stages, watch it, stop it."""

import math
import re
from typing import Annotated

import typer

from service.cli.client import JsonObject, connect
from service.cli.errors import BadArgumentError
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import print_facts, print_json, print_line, print_table, short

app = typer.Typer(help="Rollouts: start, watch and stop them.", no_args_is_help=True)

RolloutArgument = Annotated[str, typer.Argument(help="Rollout id.", callback=one_id)]
_STAGE = re.compile(r"(?P<number>[1-9]\d{0,8})(?P<percent>%?)")
_FULL_PERCENT = 100


def parse_stages(text: str) -> list[dict[str, int]]:
    """Parse stages such as `1,25%,100%`: device counts, or shares of the whole group.

    Raises:
        BadArgumentError: a stage is neither a count from 1 nor a percentage from 1 % to 100 %.
    """
    return [_stage(part.strip()) for part in text.split(",")]


def _stage(part: str) -> dict[str, int]:
    match = _STAGE.fullmatch(part)
    if match is None or (match["percent"] and int(match["number"]) > _FULL_PERCENT):
        raise BadArgumentError(f"stage: expected a count from 1 or 1% to 100%, as in 1,25%,100%; found {part!r}")
    return {"percent" if match["percent"] else "count": int(match["number"])}


def finite_seconds(seconds: float | None) -> float | None:
    """Return a time that JSON can carry.

    Raises:
        BadArgumentError: it is infinite or no number.
    """
    if seconds is not None and not math.isfinite(seconds):
        raise BadArgumentError(f"seconds: expected a finite number, found {seconds}")
    return seconds


@app.command()
def start(
    release: Annotated[str, typer.Argument(help="Name or id of the release.")],
    *,
    group: Annotated[str, typer.Option(help="Device group, by name or id.")],
    stages: Annotated[str, typer.Option(help="Counts or percentages, one per stage.")] = "1,25%,100%",
    product: Annotated[str | None, typer.Option(help="Product, where the group's name is not unique.")] = None,
    success_percent: Annotated[int | None, typer.Option(help="Share confirmed that opens the next stage.")] = None,
    error_percent: Annotated[int | None, typer.Option(help="Share of failures above which it halts.")] = None,
    min_reports: Annotated[int | None, typer.Option(help="Reports that a stage needs before it is judged.")] = None,
    soak_seconds: Annotated[
        float | None, typer.Option(help="Time that a stage must hold before the next.", callback=finite_seconds)
    ] = None,
    action_timeout_seconds: Annotated[
        float | None, typer.Option(help="Time that one device may take.", callback=finite_seconds)
    ] = None,
    draft: Annotated[bool, typer.Option("--draft", help="Create it without starting it.")] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Start a rollout of a release to a device group."""
    policy = {
        "success_percent": success_percent,
        "error_percent": error_percent,
        "min_reports": min_reports,
        "soak_seconds": soak_seconds,
        "action_timeout_seconds": action_timeout_seconds,
        "product": product,
    }
    body = {"release": release, "group": group, "stages": parse_stages(stages), "start": not draft}
    given = {name: value for name, value in policy.items() if value is not None}
    with connect(operator_dir) as client:
        rollout = client.post("/rollouts", body | given)
    _print_rollout(rollout, as_json=as_json)


@app.command("list")
def list_rollouts(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """List rollouts."""
    with connect(operator_dir) as client:
        rollouts = list(client.items("/rollouts"))
    if as_json:
        print_json(rollouts)
        return
    rows = (
        (rollout["id"], rollout.get("release"), rollout.get("group"), rollout["state"], rollout.get("halted_reason"))
        for rollout in rollouts
    )
    print_table("Rollouts", ("id", "release", "group", "state", "halted because"), rows)


@app.command()
def show(
    rollout: RolloutArgument,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show a rollout and its stages."""
    with connect(operator_dir) as client:
        answer = client.get(f"/rollouts/{rollout}")
    _print_rollout(answer, as_json=as_json)


@app.command()
def explain(
    rollout: RolloutArgument,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show the part of each device in a rollout, and what went wrong there."""
    with connect(operator_dir) as client:
        actions = list(client.items(f"/rollouts/{rollout}/actions"))
    if as_json:
        print_json(actions)
        return
    rows = (
        (short(action["device_id"]), action.get("stage"), action["state"], action.get("cause"), action.get("detail"))
        for action in actions
    )
    print_table(f"Actions of {short(rollout)}", ("device", "stage", "state", "cause", "detail"), rows)


@app.command()
def pause(rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Pause a rollout: no device starts, those that have started go on."""
    _command(rollout, "pause", operator_dir=operator_dir)


@app.command()
def resume(rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Resume a paused rollout; a halted one stays halted."""
    _command(rollout, "resume", operator_dir=operator_dir)


@app.command()
def abort(rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Abort a rollout for good."""
    _command(rollout, "abort", operator_dir=operator_dir)


def _command(rollout: str, verb: str, *, operator_dir: OperatorDirOption) -> None:
    with connect(operator_dir) as client:
        answer = client.post(f"/rollouts/{rollout}/{verb}")
    print_line(f"{short(rollout)}: {answer.get('state', verb)}")


def _print_rollout(rollout: JsonObject, *, as_json: bool) -> None:
    if as_json:
        print_json(rollout)
        return
    facts = ("id", "release", "group", "state", "halted_reason")
    print_facts({name: rollout.get(name) for name in facts} | {"totals": rollout.get("totals")})
    columns = ("index", "state", "size", "scheduled", "in_progress", "succeeded", "failed")
    rows = ([stage.get(column) for column in columns] for stage in rollout.get("stages", []))
    print_table("Stages", columns, rows)
