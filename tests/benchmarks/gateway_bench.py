"""Benchmarks (b) and (c): telemetry and connects through the gateway, against mosquitto 2, side by side.

The same load generator drives both, over mutual TLS 1.3 on loopback. Ours checks identity and topic of every
message and commits it (SQLite, WAL, synchronous=FULL) before the PUBACK; mosquitto verifies the certificate, keeps
nothing on disk, and has one subscriber at QoS 0, which is the cheapest for it. Prints a JSON list of rows.
"""

import argparse
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding

from tests.integration.gateway.gateway_certificates import CertificateBuilder, Credential

HERE = Path(__file__).parent
Row = dict[str, Any]
Load = dict[str, Any]

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
SHAPES = ((20, 20), (2_000, 1))
CONNECT_THREADS = 4


class Server:
    """A server process that listens, and what it costs."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process = process
        self.port = port

    def cpu_seconds(self) -> float:
        """User and system time so far (proc(5): fields 14 and 15 of stat)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    """Certificates and servers of one run, in a folder that is removed afterwards."""

    def __init__(self, folder: Path, *, devices: int, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        certificates = CertificateBuilder(folder)
        self.root = certificates.root_file
        self.server = certificates.server("127.0.0.1")
        self.issuer = folder / "issuer.pem"
        self.issuer.write_bytes(certificates.issuing_ca.certificate.public_bytes(Encoding.PEM))
        self.subscriber = _as_device(certificates.device("subscriber"))
        self.devices = [_as_device(certificates.device(f"device {number}")) for number in range(devices)]

    @contextmanager
    def ours(self) -> Iterator[Server]:
        """Run the gateway with empty databases."""
        data = Path(tempfile.mkdtemp(dir=self.folder))
        settings = {
            "certificate": str(self.server.certificate_file),
            "key": str(self.server.key_file),
            "issuer": str(self.issuer),
            "telemetry": str(data / "telemetry.db"),
            "control": str(data / "control.db"),
        }
        with _process([sys.executable, str(HERE / "gateway_serve.py")], settings) as process:
            yield Server(process, int(_line(process)))

    @contextmanager
    def mosquitto(self) -> Iterator[Server]:
        """Run mosquitto with one subscriber."""
        port = _free_port()
        chain = self.folder / "chain.pem"
        chain.write_bytes(self.issuer.read_bytes() + self.root.read_bytes())
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text(
            f"listener {port} 127.0.0.1\ncafile {chain}\ncertfile {self.server.certificate_file}\n"
            f"keyfile {self.server.key_file}\nrequire_certificate true\nallow_anonymous true\n"
            "persistence false\nmax_queued_messages 0\nlog_dest none\nset_tcp_nodelay true\n"
            f"user {getpass.getuser()}\n"  # else root's mosquitto becomes another user, who cannot read the folder
        )
        with _process([MOSQUITTO, "-c", str(configuration)]) as broker:
            _wait_for(port)
            subscription = {"mode": "subscribe", "port": port, "root": str(self.root)}
            with _process(_load_command(), subscription | {"devices": [self.subscriber]}) as subscriber:
                _line(subscriber)
                yield Server(broker, port)

    def load(self, server: Server, **load: object) -> Load:
        """Run the load generator to its end; adds the server's `cpu_seconds` of the measured time."""
        settings = {"port": server.port, "root": str(self.root), "seconds": self.seconds} | load
        with _process(_load_command(), settings) as generator:
            _line(generator)
            before = server.cpu_seconds()
            result: Load = json.loads(_line(generator))
            return result | {"cpu_seconds": server.cpu_seconds() - before}

    def telemetry(self, server: Server, devices: int, inflight: int) -> tuple[float, float]:
        """Return messages per second and the server's CPU microseconds per message."""
        loaded = self.load(server, mode="publish", devices=self.devices[:devices], inflight=inflight)
        return loaded["messages"] / loaded["seconds"], loaded["cpu_seconds"] / max(loaded["messages"], 1) * 1e6

    def connects(self, server: Server, *, resume: bool) -> tuple[float, float, float]:
        """Return connects per second, the server's CPU milliseconds per connect, and the share that resumed."""
        devices = self.devices[:CONNECT_THREADS]
        loaded = self.load(server, mode="connect", devices=devices, threads=len(devices), resume=resume)
        done = max(loaded["connects"], 1)
        return done / loaded["seconds"], loaded["cpu_seconds"] / done * 1e3, loaded["resumed"] / done


def telemetry_row(bench: Bench, devices: int, inflight: int) -> Row:
    """One shape of benchmark (b)."""
    with bench.ours() as server:
        ours, ours_cpu = bench.telemetry(server, devices, inflight)
    with bench.mosquitto() as server:
        peer, peer_cpu = bench.telemetry(server, devices, inflight)
    return _row(
        f"(b) telemetry, {devices:,} devices × {inflight} in flight",
        ours,
        peer,
        "messages/s",
        f"committed before PUBACK; peer mosquitto 2, nothing on disk, one subscriber; CPU of the server process: "
        f"{ours_cpu:.0f} against {peer_cpu:.0f} µs a message",
    )


def connect_row(bench: Bench, *, resume: bool) -> Row:
    """One kind of benchmark (c)."""
    with bench.ours() as server:
        ours, ours_cpu, ours_resumed = bench.connects(server, resume=resume)
    with bench.mosquitto() as server:
        peer, peer_cpu, peer_resumed = bench.connects(server, resume=resume)
    return _row(
        f"(c) mutual-TLS connects, {'resumed' if resume else 'full handshake'}",
        ours,
        peer,
        "connects/s",
        f"TLS 1.3, CONNECT included; CPU of the server process: {ours_cpu:.1f} against {peer_cpu:.1f} ms a connect; "
        f"{ours_resumed:.0%} and {peer_resumed:.0%} resumed a session",
    )


def _row(name: str, ours: float, peer: float | None, unit: str, note: str) -> Row:
    ratio = round(ours / peer, 2) if peer else None
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "note": note}


def _as_device(credential: Credential) -> dict[str, str]:
    files = {"certificate": str(credential.certificate_file), "key": str(credential.key_file)}
    return {"id": credential.device_id} | files


def _load_command() -> list[str]:
    return [sys.executable, str(HERE / "gateway_load.py")]


@contextmanager
def _process(command: list[str], settings: object = None) -> Iterator["subprocess.Popen[str]"]:
    """Run a child for as long as the block, with one line of settings on its standard input."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:  # fixed commands
        try:
            if settings is not None and process.stdin is not None:
                process.stdin.write(json.dumps(settings) + "\n")
                process.stdin.flush()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()


def _line(process: "subprocess.Popen[str]") -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise RuntimeError(f"server: expected a line of output, found its end (exit {process.wait(timeout=20)})")
    return line


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    """Return when the port takes connections; up to 500 tries."""
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)  # between tries; the listener's accept is the condition
    raise RuntimeError(f"mosquitto: expected it to listen on {port}")


def main() -> None:
    """Run all rows and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time of each run")
    parser.add_argument("--devices", type=int, default=2_000, help="most devices of a shape")
    parser.add_argument("--only", choices=("telemetry", "connects"), help="leave out the other rows")
    parser.add_argument("--out", type=Path, help="write the rows here instead of standard output")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), devices=options.devices, seconds=options.seconds)
        if options.only != "connects":
            rows += [telemetry_row(bench, min(devices, options.devices), inflight) for devices, inflight in SHAPES]
        if options.only != "telemetry":
            rows += [connect_row(bench, resume=resume) for resume in (False, True)]
    text = json.dumps(rows, indent=1)
    if options.out is not None:
        options.out.write_text(text + "\n")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
