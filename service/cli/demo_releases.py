"""The steps of the demo that sign and roll out: models, a good release, inference, a release that stops itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from service.cli.client import JsonObject
from service.cli.demo_processes import Command
from service.cli.demo_run import GROUP, PRODUCT, DemoRun, tinyfleet
from service.cli.demo_steps import pack_application
from service.cli.errors import StepError
from service.cli.factory_images import simulated_payload

STAGES = "1,25%,100%"
SOAK_SECONDS = "1"
ACTION_TIMEOUT_SECONDS = "300"
ROLLOUT_SECONDS = 600.0
INFERENCE_SECONDS = 120.0
EVENTS_PER_CORE = 3  # of each device that infers, before the demo goes on
GOOD_RELEASE = "vision-1.0"
BAD_RELEASE = "vision-1.1"
VERSION = "1.0.0"
BAD_VERSION = "1.1.0"
OVER = frozenset({"finished", "halted", "aborted"})


@dataclass(frozen=True, slots=True)
class DemoModel:
    """A model of the demo.

    Attributes:
        photos: what its golden vectors show.
    """

    name: str
    core: str
    photos: tuple[str, ...]

    def source(self, run: DemoRun) -> Path:
        """Where the model is."""
        return run.folder.work / f"{self.name}.tflite"

    def card(self, run: DemoRun) -> Path:
        """Where its card is."""
        return run.folder.work / f"{self.name}.yaml"

    def golden(self, run: DemoRun) -> Path:
        """Where its golden vectors are."""
        return run.folder.work / f"{self.name}-golden.json"

    def package(self, run: DemoRun, version: str) -> Path:
        """Where the package of a version is."""
        return run.folder.work / f"{self.name}-{version}.img"


PERSON = DemoModel("person-detection", "m4-0", ("astronaut", "cat", "coffee"))
IMAGE = DemoModel("image-classification", "m4-1", ("horse", "cat", "motorcycle"))
MODELS = (PERSON, IMAGE)


def fetch(run: DemoRun) -> None:
    """Fetch the models and their cards; one after the other, because one download brings both."""
    run.perform([tinyfleet("model", "fetch", model.name, "--out", run.folder.work) for model in MODELS])


def pack(run: DemoRun) -> None:
    """Sign golden vectors, three models and the next application of the A7."""
    run.perform(
        [
            make_golden(run, PERSON),
            pack_model(run, PERSON),
            pack_model(run, PERSON, bad_card(run), version=BAD_VERSION),
        ],
        [make_golden(run, IMAGE), pack_model(run, IMAGE), _pack_next_application(run)],
    )


def make_golden(run: DemoRun, model: DemoModel) -> Command:
    """Return the command that signs the golden vectors of a model's component."""
    options = ("--model", model.source(run), "--card", model.card(run), "--out", model.golden(run))
    return tinyfleet("golden", "make", *model.photos, *options)


def pack_model(run: DemoRun, model: DemoModel, card: Path | None = None, *, version: str = VERSION) -> Command:
    """Return the command that judges, packs and signs a model."""
    golden, package = ("--golden", model.golden(run)), ("--out", model.package(run, version))
    options = ("--card", card or model.card(run), "--core", model.core, "--security-version", "1")
    return tinyfleet("model", "pack", model.source(run), *options, *golden, *package)


def bad_card(run: DemoRun) -> Path:
    """Write the card of a model that passes every check on the host; the scenario says what it does on devices."""
    card = run.folder.work / f"{PERSON.name}-{BAD_VERSION}.yaml"
    content: Mapping[str, Any] = yaml.safe_load(PERSON.card(run).read_text())
    card.write_text(yaml.safe_dump({**content, "version": BAD_VERSION}))
    return card


def _pack_next_application(run: DemoRun) -> Command:
    payload = run.folder.work / "telemetry-app-1.1.0.bin"
    payload.write_bytes(simulated_payload("telemetry-app", "1.1.0", payload_bytes=80 * 1024))
    return pack_application("1.1.0", payload=payload, package=application_package(run))


def application_package(run: DemoRun) -> Path:
    """Where the package of the next application is."""
    return run.folder.work / "telemetry-app-1.1.0.img"


def release(run: DemoRun) -> None:
    """Sign one release with an image for each core."""
    packages = [model.package(run, VERSION) for model in MODELS]
    create_release(run, GOOD_RELEASE, *packages, application_package(run))


def create_release(run: DemoRun, name: str, *packages: Path) -> None:
    """Sign a release, unless an interrupted run did."""
    if not any(known["name"] == name for known in run.client.items("/releases")):
        run.perform([tinyfleet("release", "create", name, *packages, "--yes", "--json")])


def roll_out(run: DemoRun) -> None:
    """Bring the release to the whole fleet, in stages."""
    rollout = watch_rollout(run, start_rollout(run, GOOD_RELEASE))
    if rollout["state"] != "finished":
        raise StepError(f"rollout of {GOOD_RELEASE}: expected finished, found {rollout['state']}: {_why(run, rollout)}")


def start_rollout(run: DemoRun, release_name: str) -> str:
    """Start a rollout, unless an interrupted run did; return its id."""
    known = find_rollout(run, release_name)
    if known is None:
        options = ("--product", PRODUCT, "--group", GROUP, "--stages", STAGES)
        limits = ("--soak-seconds", SOAK_SECONDS, "--action-timeout-seconds", ACTION_TIMEOUT_SECONDS)
        run.perform([tinyfleet("rollout", "start", release_name, *options, *limits, "--json")])
        known = find_rollout(run, release_name)
    if known is None:
        raise StepError(f"rollout of {release_name}: expected it to be listed, found none")
    return str(known["id"])


def find_rollout(run: DemoRun, release_name: str) -> JsonObject | None:
    """Return the rollout of a release, if there is one."""
    return next((rollout for rollout in run.client.items("/rollouts") if rollout["release"] == release_name), None)


def watch_rollout(run: DemoRun, rollout_id: str) -> JsonObject:
    """Wait until a rollout is over, and return it."""

    def is_over() -> bool:
        rollout = run.client.get(f"/rollouts/{rollout_id}")
        run.view.rollouts[rollout_id] = rollout
        return rollout["state"] in OVER

    run.wait_until(is_over, what="the rollout to end", timeout_seconds=ROLLOUT_SECONDS)
    return run.client.get(f"/rollouts/{rollout_id}")


def infer(run: DemoRun) -> None:
    """Wait until every core that infers has sent a few results home."""
    wanted = (run.inference_sample or run.healthy_devices) * len(MODELS) * EVENTS_PER_CORE

    def is_home() -> bool:
        return bool(run.client.get("/telemetry/count", stream="inference")["count"] >= wanted)

    run.wait_until(is_home, what=f"{wanted} inference results", timeout_seconds=INFERENCE_SECONDS)


def bad_release(run: DemoRun) -> None:
    """Sign a release of the model that passes every check on the host."""
    create_release(run, BAD_RELEASE, PERSON.package(run, BAD_VERSION))


def bad_rollout(run: DemoRun) -> None:
    """Roll it out: the canary reverts by itself, and the rollout halts by itself."""
    rollout = watch_rollout(run, start_rollout(run, BAD_RELEASE))
    if rollout["state"] != "halted":
        raise StepError(f"rollout of {BAD_RELEASE}: expected it to halt itself, found {rollout['state']}")


def _why(run: DemoRun, rollout: JsonObject) -> str:
    actions = run.client.items(f"/rollouts/{rollout['id']}/actions")
    failed = [f"{action['device_id'][:12]}: {action.get('detail')}" for action in actions if action.get("cause")]
    return "; ".join([str(rollout.get("halted_reason")), *failed[:3]])
