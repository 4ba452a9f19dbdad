"""The steps of the demo up to a fleet that is attested: each is a public command, or a few.

Every step bears to be done again: it is noted only when it is done.
"""

import json
import os
import shutil
import signal
from pathlib import Path

from pki.files import PRIVATE_MODE, replace_file
from service.cli.client import CREDENTIAL_FILE, JsonObject
from service.cli.demo_events import devices_with
from service.cli.demo_folder import DemoFolder
from service.cli.demo_processes import Child, Command
from service.cli.demo_run import (
    ASSETS,
    ATTACKED_DEVICES,
    DEVICE_SIM,
    GROUP,
    PRODUCT,
    TINYFLEET,
    DemoRun,
    device_sim,
    tinyfleet,
)
from service.cli.errors import DemoFolderError, StepError

START_SECONDS = 60.0  # from the start of the service to its service.json
BOOT_SECONDS = 240.0  # from the start of the devices to the last attestation
SEED = "demo"
TAMPERED_SLOT = "os"
APPLICATION = "telemetry-app"
APPLICATION_COMPONENT = "b7a1f569-9587-43f0-ac75-7edf5b558dec"  # that of the factory image
A7_SLOT = "a7/application"


def init(run: DemoRun) -> None:
    """Hold the key ceremony, from the beginning if it was interrupted."""
    for folder in (run.folder.operator, run.folder.service):
        shutil.rmtree(folder, ignore_errors=True)
    where = ("--data-dir", run.folder.root, "--url", run.service_url)
    run.perform([tinyfleet("init", *where, "--generate-passphrase")])


def start_service(run: DemoRun) -> Child:
    """Start the service; `serve` waits for it."""
    _point_login(run)
    run.service = run.processes.start("service", serve_command(run))
    return run.service


def serve(run: DemoRun) -> None:
    """Start the service, unless it has been started, and wait until it says where it listens."""
    service = run.service or start_service(run)
    _wait_for_service(run, service.process.pid)


def _point_login(run: DemoRun) -> None:
    """Have the operator's login lead to where the service listens in this run."""
    path = run.folder.operator / CREDENTIAL_FILE
    login = json.loads(path.read_bytes()) | {"url": run.service_url}
    replace_file(path, json.dumps(login).encode(), mode=PRIVATE_MODE)


def serve_command(run: DemoRun) -> list[str]:
    """Return module and arguments that start the service."""
    ports = run.record.ports
    chosen = {"--operator-port": ports.operator, "--device-port": ports.device, "--mqtt-port": ports.mqtt}
    options = [str(word) for option in chosen.items() for word in option]
    return [TINYFLEET, "serve", "--data-dir", str(run.folder.service), *options]


def service_facts(folder: DemoFolder) -> JsonObject:
    """Return what the service says of itself, or nothing if it does not run."""
    try:
        facts: JsonObject = json.loads(folder.service_file.read_bytes())
    except FileNotFoundError:
        return {}
    return facts


def manufacture(run: DemoRun) -> None:
    """Make the devices; a seed makes an interrupted step go on with the same ones."""
    count = str(run.record.devices)
    run.perform([device_sim("manufacture", "--out", run.folder.devices, "--count", count, "--seed", SEED)])


def factory(run: DemoRun) -> None:
    """Sign the factory images and the devices' birth certificates, and flash the devices."""
    run.perform(
        [
            tinyfleet("factory", "images", "--json"),
            tinyfleet("factory", "sign", run.folder.devices),
            device_sim("flash", run.folder.devices),
        ]
    )


def claim(run: DemoRun) -> None:
    """Claim every device by proof of identity."""
    is_made = any(product["name"] == PRODUCT for product in run.client.items("/products"))
    make = [] if is_made else [tinyfleet("product", "create", PRODUCT)]
    where = ("--product", PRODUCT, "--group", GROUP)
    run.perform([*make, tinyfleet("device", "claim", run.folder.devices, *where)])


def attack(run: DemoRun) -> None:
    """Flip a bit in one device, and flash a signed but unlisted application into another."""
    tampered, unlisted = run.device_folders()[:ATTACKED_DEVICES]
    payload, package = run.folder.work / "unlisted.bin", run.folder.work / "unlisted.img"
    payload.write_bytes(b"an application that nobody has listed\n")
    pack = pack_application("0.9.9", payload=payload, package=package)
    run.perform(
        [device_sim("flash", tampered, "--slot", TAMPERED_SLOT, "--tamper")],
        [pack, device_sim("flash", unlisted, "--slot", A7_SLOT, "--package", package)],
    )


def pack_application(version: str, *, payload: Path, package: Path) -> Command:
    """Return the command that packs an application of the A7."""
    options = ("--name", APPLICATION, "--version", version, "--component-id", APPLICATION_COMPONENT)
    return tinyfleet("image", "create", payload, *options, "--security-version", "1", "--out", package)


def boot(run: DemoRun) -> None:
    """Start the devices."""
    sample = f"inference_sample: {run.inference_sample}\n" if run.inference_sample else ""
    scenario_file(run).write_text((ASSETS / "scenario.yaml").read_text() + sample)
    run.events.begin()
    run.devices = run.processes.start("devices", run_command(run))


def scenario_file(run: DemoRun) -> Path:
    """Where the scenario of this demo is."""
    return run.folder.work / "scenario.yaml"


def run_command(run: DemoRun) -> list[str]:
    """Return module and arguments that run the devices."""
    files = ["--service-file", run.folder.service_file, "--scenario", scenario_file(run), "--events", run.folder.events]
    return [DEVICE_SIM, "run", *map(str, [run.folder.devices, *files])]


def attest(run: DemoRun) -> None:
    """Wait until each device is attested, refused or stopped in its boot."""
    ends = ("attested", "refused", "boot-stopped")

    def has_ended() -> bool:
        return len(devices_with(run.events.of_this_run(), *ends)) == run.record.devices

    run.wait_until(has_ended, what="every device to be attested or refused", timeout_seconds=BOOT_SECONDS)


def stop_devices(run: DemoRun) -> None:
    """Stop the devices; what they have sent is acknowledged first."""
    if run.devices is not None and (code := run.processes.stop(run.devices)) != 0:
        raise StepError(f"device-sim run: expected exit code 0, found {code}: see {run.devices.log}")


def refuse_running_service(folder: DemoFolder) -> None:
    """Refuse a folder whose service still runs, as after `--keep`.

    Raises:
        DemoFolderError: it runs.
    """
    pid = service_facts(folder).get("pid")
    if isinstance(pid, int) and _is_running(pid):
        raise DemoFolderError(f"{folder.root}: expected no running service, found process {pid}; stop it: kill {pid}")


def keep_running(run: DemoRun) -> str:
    """Start service and devices anew, so that they outlive the demo; return what to tell people."""
    run.processes.stop_all()
    service = run.processes.start_detached("service", serve_command(run))
    try:
        _wait_for_service(run, service)
        devices = run.processes.start_detached("devices", run_command(run))
    except BaseException:
        os.kill(service, signal.SIGTERM)
        raise
    facts = service_facts(run.folder)
    return (
        f"operator API  {facts['operator_url']}\ndevice API    {facts['device_url']}\n"
        f"MQTT gateway  {facts['mqtt_host']}:{facts['mqtt_port']}\n"
        f"try           tinyfleet device list --operator-dir {run.folder.operator}\n"
        f"stop          kill {devices} {service}"
    )


def _wait_for_service(run: DemoRun, pid: int) -> None:
    run.wait_until(
        lambda: service_facts(run.folder).get("pid") == pid,
        what="the service to listen",
        timeout_seconds=START_SECONDS,
    )


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
