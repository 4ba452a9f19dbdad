"""Authenticated idle update polls over mutual TLS, against gooseBit 0.2.12 on the same machine in the same run.

Twenty connections; last-seen is kept by both. The same request with a new TLS connection each time, full and resumed,
as a sleeping device makes it. gooseBit runs in a venv of its own under build/, installed from the package index.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_service import Client, data_directory, make_clients, register, service

HERE = Path(__file__).parent
VENV = Path("build/goosebit")
SECONDS = 8
CONNECTIONS = 20
MODES = ("keep-alive", "full", "resumed")


def load(host: str, port: int, ca: str, clients: list[Client], *, paths: list[str], mode: str) -> float:
    """Run the load generator in its own process; return requests per second."""
    plan = {
        "host": host,
        "port": port,
        "ca": ca,
        "seconds": SECONDS,
        "mode": mode,
        "clients": [
            {"certificate": str(c.certificate), "key": str(c.key), "path": path}
            for c, path in zip(clients, paths, strict=True)
        ],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        done = subprocess.run([sys.executable, HERE / "http_load.py", file.name], stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout)
    return float(result["requests"] / result["seconds"])


def ours(total: int, modes: tuple[str, ...]) -> dict[str, float]:
    """Measure tinyfleet with `total` known devices."""
    with data_directory() as data_dir:
        with service(data_dir):
            pass  # makes the database
        clients = make_clients(data_dir, CONNECTIONS)
        register(data_dir, clients, total)
        with service(data_dir) as running:
            host, port = running["device_url"].removeprefix("https://").rsplit(":", 1)
            paths = ["/device/v1/poll"] * CONNECTIONS
            return {m: load(host, int(port), running["ca"], clients, paths=paths, mode=m) for m in modes}


def interpreter() -> Path:
    """Return gooseBit's Python, installing it on the first run."""
    python = VENV / "bin" / "python"
    if not (VENV / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "goosebit==0.2.12"], check=True, stdout=sys.stderr)
        (VENV / "installed").touch()
    return python.absolute()


@contextmanager
def goosebit(data_dir: Path, total: int) -> Iterator[int]:
    """Run gooseBit with `total` registered devices and our certificates; yields its port."""
    environment = {**os.environ, "GOOSEBIT_DB_URI": f"sqlite://{data_dir}/goosebit.sqlite3"}
    peer = [str(interpreter()), str((HERE / "goosebit_peer.py").absolute())]
    quiet: dict[str, Any] = {
        "env": environment,
        "cwd": data_dir,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
    }
    subprocess.run([*peer, "seed", str(total)], check=True, **quiet)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    service_dir = data_dir / "service"
    trust = data_dir / "trust.pem"
    certificates = service_dir / "certificates"
    trust.write_bytes(b"".join((certificates / f"{name}.pem").read_bytes() for name in ("root", "issuing-ca")))
    files = [certificates / "server.pem", service_dir / "keys" / "server.pem", trust]
    command = [*peer, "serve", "127.0.0.1", str(port), *(str(file) for file in files)]
    process = subprocess.Popen(command, **quiet)
    try:
        wait_for_port(process, port)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until something listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("gooseBit: expected it to listen within 60 s, found it not")


def peer(total: int, modes: tuple[str, ...]) -> dict[str, float]:
    """Measure gooseBit with `total` registered devices."""
    with data_directory() as data_dir, goosebit(data_dir, total) as port:
        clients = make_clients(data_dir, CONNECTIONS)
        paths = [f"/DEFAULT/controller/v1/device-{index}" for index in range(CONNECTIONS)]
        ca = str(data_dir / "service" / "certificates" / "root.pem")
        return {m: load("127.0.0.1", port, ca, clients, paths=paths, mode=m) for m in modes}


def main() -> None:
    """Print the rows."""
    rows = []
    for total, modes in ((1_000, MODES), (100_000, MODES[:1])):
        mine, theirs = ours(total, modes), peer(total, modes)
        rows += [row(mode, total, mine[mode], theirs[mode]) for mode in modes]
    print(json.dumps(rows))


def row(mode: str, total: int, mine: float, theirs: float) -> dict[str, object]:
    """Return one row of the table."""
    return {
        "name": f"idle polls, {mode}, {total:,} known devices",
        "ours": mine,
        "peer": theirs,
        "ratio": mine / theirs,
        "unit": "polls/s",
        "note": f"mutual TLS, {CONNECTIONS} clients; peer gooseBit 0.2.12 under uvicorn",
    }


if __name__ == "__main__":
    main()
