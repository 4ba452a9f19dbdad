"""A person detector for the devices of a run, and what they tell of it."""

import json
import shutil
import ssl
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.integration.fleets.fleet_run import Run
from tinyml.fetch import fetch_model

CARD = Path(__file__).parents[3] / "service" / "cli" / "demo_assets" / "person-detection.yaml"


def inferences(run: Run) -> list[dict[str, Any]]:
    """What the devices told, as GET /v1/telemetry has it, each with its device's id."""
    login = json.loads((run.party.operator / "credential.json").read_bytes())
    url = json.loads((run.party.service / "service.json").read_bytes())["operator_url"]
    headers = {"Authorization": f"Bearer {login['token']}"}
    found: list[dict[str, Any]] = []
    context = ssl.create_default_context(cafile=run.party.operator / login["ca"])
    with httpx.Client(verify=context, base_url=f"{url}/api/v1", headers=headers) as client:
        after = 0
        while page := _page(client, after):
            found += [{**item["payload"], "device_id": item["device_id"]} for item in page["items"]]
            after = page["next_after"]
    return found


def _page(client: httpx.Client, after: int) -> dict[str, Any]:
    """The next messages, or nothing."""
    answer = client.get("/telemetry", params={"stream": "inference", "after": after})
    page: dict[str, Any] = answer.raise_for_status().json()
    return page if page["items"] else {}


def roll_out_gate_model(run: Run, folder: Path) -> None:
    """Have all devices run a person detector named gate."""
    model = Path(shutil.copy(fetch_model("person-detection"), folder / "person.tflite"))
    card, golden, package = folder / "card.yaml", folder / "golden.json", folder / "gate.img"
    card.write_text(yaml.safe_dump({**yaml.safe_load(CARD.read_text()), "name": "gate"}))
    run.party.run("golden", "make", "astronaut", "cat", "--model", model, "--card", card, "--out", golden)
    run.party.run(
        "model", "pack", model, "--card", card, "--core", "m4-0", "--security-version", "1",
        "--golden", golden, "--out", package,
    )  # fmt: skip
    run.party.run("release", "create", "gate-model", package, "--yes", "--json")
    stages = ("--stages", "100%", "--soak-seconds", "0", "--action-timeout-seconds", "600", "--json")
    run.party.run("rollout", "start", "gate-model", "--group", "Production", *stages)
