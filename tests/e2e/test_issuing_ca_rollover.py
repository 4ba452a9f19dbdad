"""The issuing CA gets a new key while real devices run: none of them is refused at any time."""

import json
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.e2e.party import DEVICE_SIM, PATIENCE_SECONDS, CommandFailedError, Party, SimulatedDevice

pytestmark = pytest.mark.timeout(420)

DEVICES = 2
ROLLOVER = ("pki", "rollover", "issuing-ca")
SETTINGS = {"certificate_lifetime_seconds": 12.0, "attestations_per_hour": 100_000, "poll_seconds": 1.0}
TROUBLE = {"retry", "refused", "access-lost", "report-refused", "crashed", "boot-stopped"}


class Lives:
    """Devices that run, and what they have said so far; unlike `SimulatedDevice.live` for as long as the test takes."""

    def __init__(self, party: Party, devices: list[SimulatedDevice]) -> None:
        self._processes: list[tuple[subprocess.Popen[bytes], Path]] = []
        for device in devices:
            log = device.folder.parent / f"{device.folder.name}-{time.monotonic_ns()}.jsonl"
            words = ["run", device.folder, "--service-file", party.service / "service.json", "--events", log]
            command = [sys.executable, "-m", DEVICE_SIM, *map(str, words)]
            with log.with_suffix(".log").open("wb") as output:
                self._processes.append((subprocess.Popen(command, stdout=output, stderr=output), log))

    def events(self) -> list[list[dict[str, Any]]]:
        """What each device has said."""
        texts = [log.read_text() if log.exists() else "" for _, log in self._processes]
        return [[json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")] for text in texts]

    def count(self, *names: str) -> list[int]:
        """How often each device has said one of these."""
        assert all(process.poll() is None for process, _ in self._processes)
        return [sum(event["event"] in names for event in said) for said in self.events()]

    def trouble(self) -> list[dict[str, Any]]:
        """What went wrong on any device."""
        return [event for said in self.events() for event in said if event["event"] in TROUBLE]

    def stop(self) -> None:
        """End them, as a power switch does."""
        for process, _ in self._processes:
            process.terminate()
        for process, _ in self._processes:
            process.wait()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, f"expected {what} within {PATIENCE_SECONDS} s"
        time.sleep(0.1)


class Api:
    """The operator API, read directly."""

    def __init__(self, party: Party) -> None:
        login = json.loads((party.operator / "credential.json").read_bytes())
        url = json.loads((party.service / "service.json").read_bytes())["operator_url"]
        self._http = httpx.Client(
            base_url=url,
            verify=ssl.create_default_context(cafile=str(party.operator / login["ca"])),
            headers={"Authorization": f"Bearer {login['token']}"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._http.close()

    def generations(self) -> dict[int, dict[str, Any]]:
        items = self._http.get("/api/v1/pki/issuing-cas").raise_for_status().json()["items"]
        return {item["number"]: item for item in items}

    def states(self) -> dict[int, str]:
        return {number: one["state"] for number, one in self.generations().items()}

    def connected(self) -> int:
        return int(self._http.get("/api/v1/fleet/summary").raise_for_status().json()["connected"])

    def refusals(self) -> list[str]:
        """What the gateway has refused since it started."""
        metrics = self._http.get("/metrics").raise_for_status().text.splitlines()
        return [line for line in metrics if 'figure="refused_' in line]


@pytest.fixture
def party(tmp_path: Path) -> Party:
    party = Party(tmp_path / "party", "Rollover", "Camera")
    party.init()
    return party


@contextmanager
def living(party: Party, devices: list[SimulatedDevice]) -> Iterator[Lives]:
    """Run devices until the block ends."""
    lives = Lives(party, devices)
    try:
        yield lives
    finally:
        lives.stop()


def claimed(party: Party, folder: Path) -> list[SimulatedDevice]:
    party.run("factory", "images")
    party.run("product", "create", party.product)
    devices = [SimulatedDevice.manufacture(folder) for _ in range(DEVICES)]
    party.run("factory", "sign", folder)
    for device in devices:
        device.flash()
    party.run("device", "claim", folder, "--product", party.product)
    return devices


def renewed(lives: Lives) -> None:
    """Wait until every device has a certificate that is newer than now."""
    before = lives.count("attested")
    wait_until(
        lambda: all(now > then for now, then in zip(lives.count("attested"), before, strict=True)),
        "new certificates",
    )


def test_devices_stay_connected_through_a_rollover(party: Party, tmp_path: Path) -> None:
    """Request, sign, activate, retire: devices renew all along, and nobody is refused, by HTTPS or MQTT."""
    with party.serving(**SETTINGS), Api(party) as api:
        devices = claimed(party, tmp_path / "devices")
        with living(party, devices) as lives:
            wait_until(lambda: api.connected() == DEVICES, "every device connected")
            roll_over(party, api, lives)
            wait_until(lambda: api.connected() == DEVICES, "every device connected")
            assert (lives.trouble(), api.refusals()) == ([], [])
        party.run("pki", "log", "verify", "--json")
    with party.serving(**SETTINGS), Api(party) as api:  # the generation outlives the process
        assert api.states() == {1: "retired", 2: "active"}
        with living(party, devices) as lives:
            wait_until(lambda: api.connected() == DEVICES, "every device connected")
            assert (lives.trouble(), api.refusals()) == ([], [])


def roll_over(party: Party, api: Api, lives: Lives) -> None:
    """Lead the issuing CA to its second generation, with renewals at every step of the way."""
    party.run(*ROLLOVER, "request")
    renewed(lives)
    party.run(*ROLLOVER, "sign")
    assert api.states() == {1: "active", 2: "trusted"}
    renewed(lives)
    assert api.generations()[2]["certificates_issued"] == 0
    party.run(*ROLLOVER, "activate", 2)
    assert "expected no valid certificate by generation 1" in party.refused(*ROLLOVER, "retire", 1)
    renewed(lives)
    renewed(lives)
    assert api.generations()[2]["certificates_issued"] >= DEVICES
    retire_once_unused(party)
    assert api.states() == {1: "retired", 2: "active"}
    renewed(lives)


def retire_once_unused(party: Party) -> None:
    def done() -> bool:
        try:
            party.run(*ROLLOVER, "retire", 1)
        except CommandFailedError as error:
            return "expected no valid certificate by generation 1" not in str(error)
        return True

    wait_until(done, "the end of the last certificate by generation 1")
