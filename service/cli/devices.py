"""`tinyfleet device`: claim, list, show, explain, block, unblock, decommission, move, release, challenge.

Its sub-commands `attributes` and `learned` have modules of their own.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from protocol.geometry import HOME_BYTES, ImageKind
from service.cli import attributes, device_health, learned, moving
from service.cli.approvals import remark_outcome
from service.cli.claiming import VoucherDesk, claim_devices
from service.cli.client import ApiClient, JsonObject, connect
from service.cli.device_show import print_device
from service.cli.errors import AnswerError
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import moment, print_facts, print_json, print_line, print_table, remark, short

_ROLLED_OUT = frozenset(slot for slot in HOME_BYTES if slot.kind is not ImageKind.FIRMWARE)  # what lists show

app = typer.Typer(help="Devices: claim them, look at them, block them.", no_args_is_help=True)
app.command()(moving.release)
app.add_typer(attributes.app, name="attributes")
app.add_typer(learned.app, name="learned")
app.command()(device_health.health)

DeviceArgument = Annotated[
    str, typer.Argument(help="Device id, or a unique beginning of at least 8 digits.", callback=one_id)
]


ReasonOption = Annotated[str, typer.Option(help="Why, for the audit log.")]


@app.command()
def challenge(
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Get a fresh challenge for devices that prove their identity elsewhere."""
    with connect(operator_dir) as client:
        answer = client.post("/claims/challenge")
    print_json(answer) if as_json else print_facts(answer)


@app.command()
def claim(
    devices: Annotated[Path, typer.Argument(help="Folder of device folders.", exists=True, file_okay=False)],
    *,
    product: Annotated[str, typer.Option(help="Product that the devices become; it must exist.")],
    group: Annotated[str, typer.Option(help="Device group of the product.")] = "Production",
    prove: Annotated[bool, typer.Option(help="Ask the devices for their proof through `device-sim prove`.")] = True,
    release: Annotated[
        Path | None,
        typer.Option(help="Release by the catalog that holds the devices, for devices that were made here."),
    ] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Claim devices by proof of identity, and hand each its voucher."""
    with connect(operator_dir) as client:
        desk = VoucherDesk.open(operator_dir, release)
        result = claim_devices(client, devices, desk=desk, product=product, group=group, prove=prove)
    if as_json:
        print_json({"claimed": result.claimed, "already_claimed": result.already_claimed})
        return
    print_line(f"claimed {len(result.claimed)} devices into {product} / {group}")
    if result.already_claimed:
        print_line(f"already claimed: {len(result.already_claimed)}")


@app.command("list")
def list_devices(
    *,
    group: Annotated[str | None, typer.Option(help="Only this device group.")] = None,
    state: Annotated[str | None, typer.Option(help="Only this state: claimed, active, blocked, …")] = None,
    suspected_clones: Annotated[bool, typer.Option("--suspected-clones", help="Only suspected clones.")] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List devices."""
    clones = "true" if suspected_clones else None
    with connect(operator_dir) as client:
        devices = list(client.items("/devices", group=group, state=state, suspected_clone=clones))
    if as_json:
        print_json(devices)
        return
    print_table(
        f"{len(devices)} devices",
        ("device", "group", "state", "clone since", "last seen", "installed"),
        _device_rows(devices),
    )


def _device_rows(devices: list[JsonObject]) -> Iterator[tuple[object, ...]]:
    for device in devices:
        yield (
            short(device["id"]),
            device["group"],
            device["state"],
            moment(device["clone_suspected_at"]),
            moment(device["last_seen"]),
            {slot: name for slot, name in installed_names(device).items() if slot in _ROLLED_OUT},
        )


def installed_names(device: JsonObject) -> dict[str, str]:
    """Return slot → name of the image in it, or the start of its digest where no metadata in force lists it."""
    return {slot: image["name"] or image["sha256"][:8] for slot, image in device["installed"].items()}


@app.command()
def show(
    device: DeviceArgument,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show one device: identity, evidence, certificate, and why it is let in or not."""
    with connect(operator_dir) as client:
        answer = client.get(f"/devices/{device}")
    print_json(answer) if as_json else print_device(answer)


@app.command()
def explain(
    device: DeviceArgument,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Say why a device is not updating."""
    with connect(operator_dir) as client:
        answer = client.get(f"/devices/{device}/explain")
    if as_json:
        print_json(answer)
        return
    print_line(f"{short(answer['device_id'])}: {'updating' if answer['updating'] else 'not updating'}")
    for reason in answer["reasons"]:
        print_line(f"  {reason}")


@app.command()
def block(
    device: DeviceArgument, *, reason: ReasonOption, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR
) -> None:
    """Block a device: its connection closes at once, and it gets no certificate."""
    with connect(operator_dir) as client:
        remark_outcome(device, "blocked", client.post(f"/devices/{device}/block", {"reason": reason}))


@app.command()
def unblock(device: DeviceArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Let a blocked device in again."""
    with connect(operator_dir) as client:
        remark_outcome(device, "unblocked", client.post(f"/devices/{device}/unblock"))


@app.command()
def decommission(
    device: DeviceArgument, *, reason: ReasonOption, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR
) -> None:
    """Take a device out of service for good. This is final: it is never admitted or claimed again."""
    with connect(operator_dir) as client:
        answer = client.post(f"/devices/{device}/decommission", {"reason": reason})
        serial = client.get(f"/devices/{device}")["idevid_serial"]
    remark_outcome(device, f"decommissioned; its IDevID, to revoke it with `tinyfleet pki revoke`: {serial}", answer)


@app.command("clear-clone")
def clear_clone(
    device: DeviceArgument, *, reason: ReasonOption, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR
) -> None:
    """Take back the suspicion that two live devices hold this identity; a block stays."""
    with connect(operator_dir) as client:
        answer = client.post(f"/devices/{device}/clear-clone", {"reason": reason})
    remark_outcome(device, "no longer a suspected clone", answer)


@app.command()
def move(
    device: DeviceArgument,
    *,
    product: Annotated[str, typer.Option(help="Product of the device group.")],
    group: Annotated[str, typer.Option(help="Device group to move to.")],
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Move a device to another device group."""
    with connect(operator_dir) as client:
        client.patch(f"/devices/{device}", {"group_id": group_id(client, product, group)})
    remark(f"{short(device)}: moved to {product} / {group}")


def group_id(client: ApiClient, product: str, group: str) -> str:
    """Return the id of a device group by its names.

    Raises:
        AnswerError: the product has no group of that name.
    """
    found = list(client.items("/device-groups", product=product, name=group))
    if len(found) != 1:
        raise AnswerError(f"device group: expected one {product} / {group}, found {len(found)}")
    return str(found[0]["id"])
