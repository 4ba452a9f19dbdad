"""Starts `tinyfleet demo` in a session of its own, and looks at what runs in it."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEVICES = 5


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo; its session holds every process that it starts."""

    process: subprocess.Popen[str]
    data_dir: Path

    def finish(self) -> dict[str, Any]:
        """Wait for its end, and return its summary."""
        output, errors = self.process.communicate()
        assert self.process.returncode == 0, errors
        return dict(json.loads(output))

    def session(self) -> set[int]:
        """Return the processes of its session that have not ended."""
        return {int(path.name) for path in Path("/proc").glob("[0-9]*") if self._runs(path)}

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Look until a condition holds; the demo must still run."""
        while not condition():
            assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
            time.sleep(0.05)

    def wait_until_gone(self) -> None:
        """Wait until nothing of its session runs."""
        while self.session():
            time.sleep(0.05)

    def has_done(self, step: str) -> bool:
        """Whether it has noted a step as done."""
        record = self.data_dir / "demo.json"
        return record.exists() and step in json.loads(record.read_text())["done"]

    def _runs(self, process: Path) -> bool:
        try:
            fields = (process / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return False
        state, session = fields[0], int(fields[3])
        return session == self.process.pid and state not in "ZX"


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A demo that Ctrl-C has ended, with its signed release and its attested devices."""

    exit_code: int
    errors: str
    data_dir: Path

    def copy_to(self, data_dir: Path) -> Path:
        """Copy what it left behind, so that several tests can go on from there."""
        return shutil.copytree(self.data_dir, data_dir)


def start_demo(data_dir: Path, *options: str) -> Demo:
    """Start a demo of a few devices."""
    command = [sys.executable, "-m", "service.cli.main", "demo", "--devices", str(DEVICES), "--json"]
    process = subprocess.Popen(
        [*command, "--data-dir", str(data_dir), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Demo(process, data_dir)
