"""`tinyfleet device learned`: what devices learned by themselves: show, download, restore to another device, reset."""

from pathlib import Path
from typing import Annotated

import typer

from pki.files import PRIVATE_MODE, replace_file
from protocol.geometry import Core
from protocol.learned_state import parse_state
from service.cli.client import JsonObject, connect
from service.cli.host_run import model_slot
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import moment, print_facts, print_json, print_table, remark, short

app = typer.Typer(help="What devices learned: show, download, restore, reset.", no_args_is_help=True)

_STATE_COLUMNS = ("device", "core", "windows", "kinds of normal", "template", "SHA-256", "received")
_ORDER_COLUMNS = ("device", "core", "order", "from", "by", "at", "state", "detail")
CoreOption = Annotated[Core, typer.Option(help="Core that learned: m4-0 or m4-1.")]
DeviceArgument = Annotated[
    str, typer.Argument(help="Device id, or a unique beginning of at least 8 digits.", callback=one_id)
]


@app.command()
def show(
    device: Annotated[
        str | None, typer.Argument(help="Device id, or a unique beginning; every device if it is left out.")
    ] = None,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show the backups, and what was ordered of them."""
    with connect(operator_dir) as client:
        states = list(client.items("/learned-states", device=device))
        orders = list(client.items("/learned-orders", device=device))
    if as_json:
        print_json({"states": states, "orders": orders})
        return
    print_table(f"{len(states)} learned states", _STATE_COLUMNS, map(_state_row, states))
    print_table(f"{len(orders)} orders", _ORDER_COLUMNS, map(_order_row, orders))


@app.command()
def download(
    device: DeviceArgument,
    *,
    core: CoreOption,
    out: Annotated[Path, typer.Option(help="File of the state.")],
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Download a backup, checked."""
    model_slot(core)
    with connect(operator_dir) as client:
        content = client.get_bytes(f"/devices/{device}/learned/{core}")
    state = parse_state(content)
    replace_file(out, content, mode=PRIVATE_MODE)
    facts = {"file": str(out), "bytes": len(content), "windows": state.windows, "prototypes": len(state.prototypes)}
    print_json(facts) if as_json else print_facts(facts)


@app.command()
def restore(
    *,
    source: Annotated[str, typer.Option("--from", help="Device whose backup it is.", callback=one_id)],
    target: Annotated[str, typer.Option("--to", help="Device that gets it.", callback=one_id)],
    core: CoreOption,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Have a device take what another one learned; it refuses what does not fit its template, and says so."""
    model_slot(core)
    with connect(operator_dir) as client:
        order = client.post(f"/devices/{source}/learned/{core}/restore", {"to": target})
    _print_order(order, f"{short(target)}: ordered to take what {short(source)} learned", as_json=as_json)


@app.command()
def reset(
    device: DeviceArgument,
    *,
    core: CoreOption,
    reason: Annotated[str, typer.Option(help="Why, for the audit log.")],
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Have a device forget what a core learned, and learn anew."""
    model_slot(core)
    with connect(operator_dir) as client:
        order = client.post(f"/devices/{device}/learned/{core}/reset", {"reason": reason})
    _print_order(order, f"{short(device)}: ordered to learn anew", as_json=as_json)


def _print_order(order: JsonObject, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(order)
    else:
        remark(f"{text}; `device learned show` says how it went")


def _state_row(state: JsonObject) -> tuple[object, ...]:
    return (
        short(state["device_id"]),
        state["core"],
        state["windows"],
        state["prototypes"],
        short(state["template_sha256"]),
        short(state["sha256"]),
        moment(state["received_at"]),
    )


def _order_row(order: JsonObject) -> tuple[object, ...]:
    return (
        short(order["device_id"]),
        order["core"],
        order["kind"],
        order["from_device"] and short(order["from_device"]),
        order["ordered_by"],
        moment(order["ordered_at"]),
        order["state"],
        order["detail"],
    )
