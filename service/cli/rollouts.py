"""`tinyfleet rollout`: bring a release to a device group in stages, watch it, stop it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
import yaml

from protocol.plan import Plan
from service.cli.approvals import remark_outcome
from service.cli.client import JsonObject, connect
from service.cli.errors import BadArgumentError
from service.cli.explaining import print_counted, print_explanation
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import print_facts, print_json, print_line, print_table, remark, short
from service.cli.plans import plan_of, read_plan, weaknesses
from service.cli.what_if import simulate

app = typer.Typer(help="Rollouts: start, watch and stop them.", no_args_is_help=True)
app.command()(simulate)

RolloutArgument = Annotated[str, typer.Argument(help="Rollout id.", callback=one_id)]
_STAGE = re.compile(r"(?P<number>[1-9]\d{0,8})(?P<percent>%?)")
_FULL_PERCENT = 100
DEFAULT_STAGES = "1,25%,100%"


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
    plan: Annotated[Path | None, typer.Option(help="Plan file, YAML or JSON; see `rollout plan`.")] = None,
    preset: Annotated[str | None, typer.Option(help="A plan to begin with: careful, standard, emergency.")] = None,
    stages: Annotated[str | None, typer.Option(help="Without a plan: counts or percentages, one per stage.")] = None,
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
    """Start a rollout of a release to a device group, by a plan or by stages and raw thresholds."""
    raw = {
        "stages": None if stages is None else parse_stages(stages),
        "success_percent": success_percent,
        "error_percent": error_percent,
        "min_reports": min_reports,
        "soak_seconds": soak_seconds,
        "action_timeout_seconds": action_timeout_seconds,
    }
    body = {"release": release, "group": group, "start": not draft, "product": product, **_way(plan, preset, raw)}
    with connect(operator_dir) as client:
        rollout = client.post("/rollouts", {name: value for name, value in body.items() if value is not None})
    _print_rollout(rollout, as_json=as_json)


def _way(plan: Path | None, preset: str | None, raw: Mapping[str, object]) -> dict[str, object]:
    """Return what says how: a plan, a preset, or stages and thresholds."""
    given = [f"--{name.replace('_', '-')}" for name, value in raw.items() if value is not None]
    ways = [*(["--plan"] if plan else []), *(["--preset"] if preset else []), *given[:1]]
    if len(ways) > 1:
        raise BadArgumentError(f"expected one of --plan, --preset, and stages with thresholds, found {', '.join(ways)}")
    if plan is not None:
        found = read_plan(plan)
        _warn_of(found)
        return {"plan": found.model_dump(mode="json")}
    if preset is not None:
        return {"plan": plan_of({"preset": preset}, where="--preset").model_dump(mode="json")}
    return {**raw, "stages": raw["stages"] or parse_stages(DEFAULT_STAGES)}


def _warn_of(plan: Plan) -> None:
    for weakness in weaknesses(plan):
        remark(f"warning: {weakness}")


@app.command("plan")
def show_plan(
    plan: Annotated[Path | None, typer.Argument(help="Plan file to check.")] = None,
    *,
    preset: Annotated[str | None, typer.Option(help="Show this one: careful, standard, emergency.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON Schema of plans.")] = False,
    group: Annotated[str | None, typer.Option(help="Count the devices of this group that it is for.")] = None,
    product: Annotated[str | None, typer.Option(help="Product, where the group's name is not unique.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Check a plan file and show what it says with its preset; or show a preset, or the schema.

    The service is asked for --group alone.
    """
    if [plan is not None, preset is not None, schema].count(True) != 1:
        raise BadArgumentError("expected one of a plan file, --preset and --schema")
    if schema:
        print_json(Plan.model_json_schema())
        return
    found = read_plan(plan) if plan is not None else plan_of({"preset": preset}, where="--preset")
    _warn_of(found)
    content = found.model_dump(mode="json", exclude_none=True)
    reach = None if group is None else _reach(operator_dir, found, group, product)
    if as_json:
        print_json(content if reach is None else {"plan": content, "reach": reach})
        return
    print_line(yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip())
    if reach is not None:
        stages = ", ".join(map(str, reach["stages"]))
        print_line(f"\nfor {reach['matching']} of {reach['devices']} devices; by stages: {stages}")


def _reach(operator_dir: Path, plan: Plan, group: str, product: str | None) -> JsonObject:
    """Ask the service for how many devices of a group a plan is."""
    body = {"group": group, "product": product, "plan": plan.model_dump(mode="json")}
    with connect(operator_dir) as client:
        return client.post("/rollouts/preview", body)


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
    """Show what was decided about a rollout and why: evidence, figures, thresholds, and the devices that went wrong."""
    with connect(operator_dir) as client:
        answer = client.get(f"/rollouts/{rollout}/explanation")
    if as_json:
        print_json(answer)
        return
    print_explanation(answer)


@app.command()
def counted(
    rollout: RolloutArgument,
    *,
    gate: Annotated[str | None, typer.Option(help="Only of this gate of the plan.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List all devices that gates of models' health have counted, by gate and device."""
    with connect(operator_dir) as client:
        found = list(client.items(f"/rollouts/{rollout}/counted", gate=gate))
    if as_json:
        print_json(found)
        return
    print_counted(found)


@app.command("roll-back")
def roll_back(
    rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False
) -> None:
    """Bring back the devices of the group that were given the release, by the way back that was signed with it."""
    with connect(operator_dir) as client:
        answer = client.post(f"/rollouts/{rollout}/roll-back")
    _print_rollout(answer, as_json=as_json)


@app.command()
def pause(rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Pause a rollout: no device starts, those that have started go on."""
    _command(rollout, "pause", operator_dir=operator_dir)


@app.command()
def resume(rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Resume a paused rollout, which answers its question with yes; a halted one stays halted."""
    _command(rollout, "resume", operator_dir=operator_dir)


@app.command()
def retry(rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Give the release again to the devices that failed or were shut out, inside the pace."""
    _command(rollout, "retry", operator_dir=operator_dir)


@app.command()
def install(rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Have devices install what a rollout that only downloads has brought them, stage by stage."""
    _command(rollout, "install", operator_dir=operator_dir)


@app.command()
def abort(rollout: RolloutArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Abort a rollout for good."""
    _command(rollout, "abort", operator_dir=operator_dir)


def _command(rollout: str, verb: str, *, operator_dir: OperatorDirOption) -> None:
    with connect(operator_dir) as client:
        answer = client.post(f"/rollouts/{rollout}/{verb}")
    if answer.get("state") == "pending":
        remark_outcome(rollout, verb, answer)
    else:
        print_line(f"{short(rollout)}: {answer.get('state', verb)}")


def _print_rollout(rollout: JsonObject, *, as_json: bool) -> None:
    if as_json:
        print_json(rollout)
        return
    facts = ("id", "release", "group", "state", "halted_reason", "question", "undoes")
    print_facts({name: rollout.get(name) for name in facts} | {"totals": rollout.get("totals")})
    if request := rollout.get("approval"):
        asked = f"{request['action']}, asked for by {request['requested_by']}"
        if request["state"] == "stale":
            print_line(f"request {request['id']} ({asked}) is stale: something else is asked by now; ask again")
        else:
            print_line(f"waits for another operator ({asked}): tinyfleet approval approve {request['id']}")
    columns = ("index", "state", "size", "scheduled", "held", "in_progress", "waiting", "succeeded", "failed")
    rows = ([stage.get(column) for column in columns] for stage in rollout.get("stages", []))
    print_table("Stages", columns, rows)
