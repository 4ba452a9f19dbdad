"""The demo's data directory: where everything lies, and which steps are done.

`demo.json` holds what a second run needs to go on: the number of devices, the ports, the finished steps. A step is
noted when it is done, so each step must bear to be done again. One demo at a time works in a directory.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from service.cli.errors import DemoFolderError

RECORD_FILE = "demo.json"
LOCK_FILE = ".demo.lock"


@dataclass(frozen=True, slots=True)
class Ports:
    """TCP ports of the service; the same in every run, so that devices find it again."""

    operator: int
    device: int
    mqtt: int


@dataclass(frozen=True, slots=True)
class Record:
    """What a second run needs to go on."""

    devices: int
    ports: Ports
    done: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Paths of a demo."""

    root: Path

    @property
    def operator(self) -> Path:
        """The operator's side."""
        return self.root / "operator"

    @property
    def service(self) -> Path:
        """The service's data directory."""
        return self.root / "service"

    @property
    def service_file(self) -> Path:
        """Process id and addresses of the running service."""
        return self.service / "service.json"

    @property
    def devices(self) -> Path:
        """The simulated devices."""
        return self.root / "devices"

    @property
    def work(self) -> Path:
        """Packages, cards and scenarios of the demo."""
        return self.root / "work"

    @property
    def logs(self) -> Path:
        """What the processes write."""
        return self.root / "logs"

    @property
    def events(self) -> Path:
        """JSON lines of device-sim, over all runs."""
        return self.root / "events.jsonl"

    def record(self) -> Record | None:
        """Return what an earlier run noted, or None if there was none.

        Raises:
            DemoFolderError: the record is damaged.
        """
        path = self.root / RECORD_FILE
        try:
            content = json.loads(path.read_bytes())
            return Record(int(content["devices"]), Ports(**content["ports"]), tuple(content["done"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise DemoFolderError(f"{path}: expected the record of a demo, found {type(error).__name__}") from error

    def note(self, record: Record) -> None:
        """Write the record, whole or not at all."""
        new = self.root / f"{RECORD_FILE}.new"
        new.write_text(json.dumps(asdict(record), indent=2))
        new.replace(self.root / RECORD_FILE)


@contextmanager
def open_folder(root: Path, *, devices: int) -> Iterator[tuple[DemoFolder, Record]]:
    """Take a directory for a demo, a new one or that of an earlier run.

    Args:
        root: made if it is not there.
        devices: how many the demo is to have.

    Raises:
        DemoFolderError: it holds something else, another number of devices, or a demo that runs.
    """
    folder = DemoFolder(root.absolute())
    _refuse_foreign(folder.root)
    for path in (folder.root, folder.work, folder.logs):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _locked(folder.root):
        record = folder.record() or Record(devices, _free_ports())
        if record.devices != devices:
            raise DemoFolderError(f"{root}: expected {record.devices} devices as in its first run, found {devices}")
        if not _are_free(record.ports):
            record = replace(record, ports=_free_ports())
        folder.note(record)
        yield folder, record


def _refuse_foreign(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise DemoFolderError(f"{root}: expected a directory, found a file")
    if root.exists() and any(root.iterdir()) and not (root / LOCK_FILE).exists():
        raise DemoFolderError(f"{root}: expected an empty directory or that of an earlier demo, found other files")


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    descriptor = os.open(root / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise DemoFolderError(f"{root}: expected no other demo in this directory, found one that runs") from error
    finally:
        os.close(descriptor)


def _free_ports() -> Ports:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    try:
        return Ports(*(taken.getsockname()[1] for taken in sockets))
    finally:
        for taken in sockets:
            taken.close()


def _are_free(ports: Ports) -> bool:
    try:
        for port in (ports.operator, ports.device, ports.mqtt):
            socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True
