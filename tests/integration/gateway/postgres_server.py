"""A PostgreSQL server of the tests' own, on a free port in a temporary folder."""

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _programs() -> Path:
    """The folder of initdb and pg_ctl: on PATH, or where Debian keeps the newest version."""
    found = shutil.which("pg_ctl")
    if found is not None:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    if not versions:
        pytest.fail("PostgreSQL is not installed: apt-get install postgresql")
    return versions[-1].parent


def _run(command: list[str], *, folder: Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """Run a server and yield its SQLAlchemy URL; as root it runs as `postgres`, because it refuses root."""
    programs, owner, as_owner = _programs(), _owner(), _as_owner()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    if as_owner:
        shutil.chown(folder, owner)
    data, control = folder / "data", _control(folder)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    _run(
        [*as_owner, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", owner],
        folder=folder,
    )
    _run([*control, "-o", options, "start"], folder=folder)
    try:
        yield f"postgresql+asyncpg://{owner}@127.0.0.1:{port}/postgres"
    finally:
        _run([*control, "-m", "immediate", "stop"], folder=folder)


def restart(folder: Path) -> None:
    """Crash the server of this folder and start it again at its port; every connection breaks."""
    _run([*_control(folder), "-m", "immediate", "restart"], folder=folder)


def _owner() -> str:
    return "postgres" if os.geteuid() == 0 else getpass.getuser()


def _as_owner() -> list[str]:
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if _owner() == "postgres" else []


def _control(folder: Path) -> list[str]:
    return [*_as_owner(), str(_programs() / "pg_ctl"), "-D", str(folder / "data"), "-l", str(folder / "log"), "-w"]
