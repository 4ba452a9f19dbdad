"""`device-sim`: make simulated devices, flash them, let them prove themselves, run them.

Exit codes: 0 done, 1 failed, 2 wrong usage. Only `main` exits.
"""

import sys
import traceback
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated

import typer

from device_sim.cli_flash import describe_device, read_geometry, recover_device
from device_sim.cli_folders import (
    DeviceCommandError,
    decommission,
    device_folders,
    factory_package,
    flash_factory_images,
    flash_package,
    manufacture_devices,
    manufacture_fleets,
    prove_device,
    set_app_development,
    tamper_with,
)
from device_sim.cli_rest import serve_device
from device_sim.cli_run import RunRequest, run_fleet
from device_sim.errors import DeviceSimError
from device_sim.fleets.flashing import FactoryLine
from protocol.errors import ProtocolError
from protocol.geometry import Slot
from tinyml.errors import TinymlError

EXPECTED_ERRORS = (DeviceSimError, ProtocolError, TinymlError, OSError)
DevicesArgument = Annotated[list[Path], typer.Argument(help="Device folders, or folders that hold device folders.")]

app = typer.Typer(name="device-sim", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
_verbose = ContextVar("verbose", default=False)


def main() -> None:
    """Run the command line and exit."""
    try:
        app()
    except EXPECTED_ERRORS as error:
        typer.echo(f"error: {error}", err=True)
        if _verbose.get():
            traceback.print_exception(error)
        sys.exit(1)


@app.callback()
def options(
    *, verbose: Annotated[bool, typer.Option("--verbose", help="Show the cause of a failure.")] = False
) -> None:
    """Simulated MT3620 devices: a measured boot, two real-time cores that run TinyML, and over-the-air updates."""
    _verbose.set(verbose)


@app.command()
def manufacture(
    *,
    out: Annotated[Path, typer.Option(help="Folder that gets a folder for each device.")],
    count: Annotated[int, typer.Option(min=1, max=100_000, help="How many devices.")] = 1,
    scenario: Annotated[Path | None, typer.Option(help="A scenario: make its fleets' devices.")] = None,
    seed: Annotated[str | None, typer.Option(help="Makes the identity keys repeatable; else they are drawn.")] = None,
    geometry: Annotated[Path | None, typer.Option(help="JSON: their flash; else the MT3620's.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Give them the AppDevelopment capability.")] = False,
) -> None:
    """Make devices, each with an identity key and a CSR for its IDevID; print their folders."""
    if scenario is not None and geometry is not None:
        raise typer.BadParameter("--geometry goes without --scenario, whose hardware says its own")
    layout = None if geometry is None else read_geometry(geometry)
    made = manufacture_devices(out, count=count, seed=seed, layout=layout)
    for folder in made if scenario is None else manufacture_fleets(scenario, out):
        if debug:
            set_app_development(folder, allowed=True)
        typer.echo(folder)


@app.command()
def capability(
    devices: DevicesArgument,
    *,
    app_development: Annotated[
        bool, typer.Option("--app-development/--no-app-development", help="Give it, or take it away.")
    ],
) -> None:
    """Give devices the AppDevelopment capability, or take it away; their evidence says NON_PSA_DEBUG with it."""
    folders = device_folders(devices)
    for folder in folders:
        set_app_development(folder, allowed=app_development)
    typer.echo(f"{'given to' if app_development else 'taken from'} {len(folders)} devices")


@app.command(name="decommission")
def decommission_devices(devices: DevicesArgument) -> None:
    """End the life cycle of devices for good; their evidence says DECOMMISSIONED from then on."""
    folders = device_folders(devices)
    for folder in folders:
        decommission(folder)
    typer.echo(f"decommissioned {len(folders)} devices")


@app.command()
def flash(
    devices: DevicesArgument,
    *,
    slot: Annotated[Slot | None, typer.Option(help="The one slot to write or to tamper with.")] = None,
    package: Annotated[Path | None, typer.Option(help="Image package for the slot.")] = None,
    tamper: Annotated[bool, typer.Option("--tamper", help="Flip a bit of the slot's image.")] = False,
) -> None:
    """Write the factory's images into devices, or one package into one slot, or tamper with a slot; unverified."""
    if (slot is None) != (package is None and not tamper) or (tamper and package is not None):
        raise typer.BadParameter("--slot goes with either --package or --tamper")
    folders = device_folders(devices)
    line = FactoryLine(flash_factory_images, factory_package)
    for folder in folders:
        if slot is None:
            line.flash(folder)
        elif package is not None:
            flash_package(folder, slot, package)
        else:
            tamper_with(folder, slot)
    typer.echo(f"{'tampered with' if tamper else 'flashed'} {len(folders)} devices")


@app.command()
def show(devices: DevicesArgument) -> None:
    """Say of each device which flash it has and how worn that is; also while the device runs."""
    for folder in device_folders(devices):
        typer.echo(describe_device(folder))


@app.command()
def recover(devices: DevicesArgument) -> None:
    """Bring devices back over the cable: factory images in every slot; fuses, identity, counters and claim stay."""
    folders = device_folders(devices)
    for folder in folders:
        recover_device(folder)
    typer.echo(f"recovered {len(folders)} devices")


@app.command()
def prove(
    devices: DevicesArgument,
    *,
    challenge: Annotated[str, typer.Option(help="The claim's challenge, hex digits.")],
) -> None:
    """Have each device prove its identity over a challenge: writes claim.json into its folder."""
    try:
        nonce = bytes.fromhex(challenge)
    except ValueError as error:
        raise typer.BadParameter("--challenge: expected hex digits") from error
    failures = []
    for folder in device_folders(devices):
        try:
            prove_device(folder, nonce)
        except (DeviceSimError, ProtocolError) as error:
            failures.append(f"{folder.name}: {error}")
    if failures:
        raise DeviceCommandError("; ".join(failures))


@app.command()
def run(
    targets: Annotated[
        list[Path], typer.Argument(metavar="[SCENARIO] DEVICES...", help="A scenario's file, and device folders.")
    ],
    *,
    service_file: Annotated[Path | None, typer.Option(help="service.json of the running service.")] = None,
    scenario: Annotated[Path | None, typer.Option(help="The scenario, where it is not the first argument.")] = None,
    events: Annotated[Path | None, typer.Option(help="File that JSON lines are added to; else stdout.")] = None,
    json: Annotated[Path | None, typer.Option(help="File that gets the record of the run.")] = None,
) -> None:
    """Boot and run devices until SIGTERM or Ctrl-C, or until the scenario ends."""
    if scenario is None and targets[0].is_file():
        scenario, targets = targets[0], targets[1:]
    folders = device_folders(targets)
    run_fleet(RunRequest(folders, service_file, scenario_file=scenario, events_file=events, record_file=json))


@app.command()
def rest(
    device: Annotated[Path, typer.Argument(help="The device's folder.")],
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0 takes a free one.")] = 8443,
    certificate_out: Annotated[
        Path | None, typer.Option(help="File that gets the server's certificate; else rest.pem in the folder.")
    ] = None,
) -> None:
    """Boot a device and answer the device-local REST interface of Azure Sphere until SIGTERM or Ctrl-C."""
    serve_device(device, port=port, certificate_file=certificate_out)


@app.command()
def report(
    record: Annotated[Path, typer.Argument(help="What `run --json` wrote.")],
    *,
    out: Annotated[Path, typer.Option(help="HTML file to write.")],
) -> None:
    """Draw the record of a run as an HTML page that needs nothing beside it."""
    from device_sim.cli_report import write_page  # noqa: PLC0415 - plots take a second to import

    write_page(record, out)
    typer.echo(out)
