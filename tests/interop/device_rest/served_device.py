"""A device that `device-sim rest` serves, and Microsoft's client beside it; two processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.device_hardware.device_builder import DeviceBuilder

CLIENT = Path(__file__).with_name("azsphere_client.py")


class ClientRaisedError(Exception):
    """Microsoft's client raised.

    Attributes:
        kind: name of its error.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class ServedDevice:
    """A device's folder, the process that serves it and the client's."""

    folder: Path
    server: subprocess.Popen[str]
    client: subprocess.Popen[str]

    def call(self, name: str, *arguments: object, **keywords: object) -> Any:
        """Call a function of the client, such as `wifi.get_wifi_scan`."""
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.write(json.dumps({"call": name, "arguments": arguments, "keywords": keywords}) + "\n")
        self.client.stdin.flush()
        outcome = json.loads(self.client.stdout.readline())
        if "raised" in outcome:
            raise ClientRaisedError(outcome["raised"], outcome["text"])
        return outcome["result"]


def make_device(builder: DeviceBuilder, *, develops: bool = True) -> Path:
    """A claimed device with factory images; its developer's, or not."""
    machine = builder.ready()
    machine.rot.set_app_development(allowed=develops)
    machine.close()
    return machine.folder


@contextmanager
def served(folder: Path, *, sdk: Path) -> Iterator[ServedDevice]:
    """Serve a device on a free port, with a client that trusts it alone.

    Args:
        folder: the device's.
        sdk: gets what the client reads of the Azure Sphere SDK: its version.
    """
    certificate = folder / "rest.pem"
    (sdk / "VERSION").write_text("24.03\n")
    command = [sys.executable, "-m", "device_sim", "rest", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = _address(server)
            client_command = [sys.executable, str(CLIENT), address, str(certificate)]
            environment = {**os.environ, "AzureSphereDefaultSDKDir": str(sdk)}
            with subprocess.Popen(
                client_command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            ) as client:
                yield ServedDevice(folder, server, client)
        finally:
            server.terminate()
            server.communicate()


def _address(server: subprocess.Popen[str]) -> str:
    for line in server.stdout or ():
        event = json.loads(line)
        if event["event"] == "listening":
            return str(event["url"]).removeprefix("https://")
    raise AssertionError("device-sim rest: expected the event listening, found the end of its output")
