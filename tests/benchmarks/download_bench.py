"""Artifact downloads in ranges over mutual TLS, against nginx serving the same file in the same run.

Both are one process and both verify the client's certificate; nginx serves from the file system, ours from memory once
it has checked the file's hash. Each row is a size of file and of range: the simulated device asks for 64 KiB at a time.
The rates are by the clock, so what else the machine does counts; each note says what of a core both servers took.
"""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.bench_service import Client, cpu_seconds, data_directory, make_clients, register, service

HERE = Path(__file__).parent
SECONDS = 2
CONNECTIONS = 4
ROUNDS = 9  # ours and nginx in turn
KIB = 1024
CASES = ((336 * KIB, 64 * KIB), (16 * 1024 * KIB, 1024 * KIB))  # bytes of the file, of a range

CONFIGURATION = """
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log warn;
events {{ worker_connections 256; }}
http {{
  access_log off; sendfile on; tcp_nodelay on; keepalive_requests 1000000000; default_type application/octet-stream;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server {{
    listen 127.0.0.1:{port} ssl; server_name localhost;
    ssl_certificate {certificate}; ssl_certificate_key {key};
    ssl_client_certificate {trust}; ssl_verify_client on; ssl_verify_depth 3; ssl_protocols TLSv1.2 TLSv1.3;
    location /device/v1/artifacts/ {{ alias {artifacts}/; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """One of the two: where it listens, and its process."""

    port: int
    pid: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What one round gave: MB/s by the clock, and the server's CPU time in ms per MB."""

    rate: float
    cpu: float


def take(server: Server, ca: str, clients: list[Client], *, sha256: str, length: int, step: int) -> Taken:
    """Run the load generator in its own process."""
    plan = {
        "host": "localhost",
        "port": server.port,
        "ca": ca,
        "seconds": SECONDS,
        "path": f"/device/v1/artifacts/{sha256}",
        "length": length,
        "range_bytes": step,
        "clients": [{"certificate": str(c.certificate), "key": str(c.key)} for c in clients],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        before = cpu_seconds(server.pid)
        done = subprocess.run([sys.executable, HERE / "range_load.py", file.name], stdout=subprocess.PIPE, check=True)
        used = cpu_seconds(server.pid) - before
    result = json.loads(done.stdout)
    megabytes = result["bytes"] / 1e6
    return Taken(megabytes / result["seconds"], 1000 * used / megabytes)


@contextmanager
def nginx(data_dir: Path, artifacts: Path) -> Iterator[Server]:
    """Run nginx with the service's certificate over its artifacts."""
    service_dir = data_dir / "service"
    certificates = service_dir / "certificates"
    trust = data_dir / "trust.pem"
    trust.write_bytes(b"".join((certificates / f"{name}.pem").read_bytes() for name in ("root", "issuing-ca")))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="tinyfleet-nginx-") as folder:
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(
            CONFIGURATION.format(
                folder=folder,
                port=port,
                certificate=certificates / "server.pem",
                key=service_dir / "keys" / "server.pem",
                trust=trust,
                artifacts=artifacts,
            )
        )
        command = [shutil.which("nginx") or "/usr/sbin/nginx", "-p", folder, "-c", str(configuration)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _wait_for_port(process, port)
            yield Server(port, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _wait_for_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError("nginx: expected it to listen within 30 s, found it not")


def put_file(artifacts: Path, length: int) -> str:
    """Write a file of random bytes where the service keeps artifacts; return its name."""
    content = os.urandom(length)
    sha256 = hashlib.sha256(content).hexdigest()
    artifacts.mkdir(exist_ok=True)
    (artifacts / sha256).write_bytes(content)
    return sha256


def measure() -> Iterator[dict[str, Any]]:
    """Yield a row per case: the medians of alternating rounds."""
    with data_directory() as data_dir:
        with service(data_dir):
            pass  # makes the database
        clients = make_clients(data_dir, CONNECTIONS)
        register(data_dir, clients, 1_000)
        artifacts = data_dir / "service" / "artifacts"
        files = {length: put_file(artifacts, length) for length, _ in CASES}
        with service(data_dir) as running, nginx(data_dir, artifacts) as peer:
            ours = Server(int(running["device_url"].rsplit(":", 1)[1]), running["pid"])
            for length, step in CASES:
                load: dict[str, Any] = {"sha256": files[length], "length": length, "step": step}
                rounds = [
                    [take(server, running["ca"], clients, **load) for server in (ours, peer)] for _ in range(ROUNDS)
                ]
                yield row(length, step, rounds)


def row(length: int, step: int, rounds: list[list[Taken]]) -> dict[str, Any]:
    """Return one row of the table."""
    ours, peer = ([each[side] for each in rounds] for side in (0, 1))
    cpu = [median(each.cpu for each in side) for side in (ours, peer)]
    return {
        "name": f"artifact download, {length // KIB:,} KiB in ranges of {step // KIB:,} KiB, mutual TLS (nginx)",
        "ours": median(each.rate for each in ours),
        "peer": median(each.rate for each in peer),
        "ratio": median(our.rate / its.rate for our, its in rounds),
        "unit": "MB/s",
        "note": f"{CONNECTIONS} connections; medians of {ROUNDS} rounds; CPU {cpu[0]:.1f} and {cpu[1]:.1f} ms/MB",
    }


def main() -> None:
    """Print the rows."""
    print(json.dumps(list(measure())))


if __name__ == "__main__":
    main()
