"""A tinyfleet service for benchmarks: a data directory by the real ceremony, N known devices, the process itself."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from sqlalchemy import create_engine

from pki import profiles
from pki.authority import chain_pem
from pki.online import issuing_authority
from protocol.identity import DeviceId, device_id_of, spki_der
from protocol.signing import SoftwareSigner
from service.adapters.database import device_tables as tables

PASSPHRASE = "correct horse battery"  # that of tests/service_folder.py
START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Client:
    """A device that connects: its id, and PEM files of its LDevID chain and key."""

    device_id: DeviceId
    certificate: Path
    key: Path


def now() -> datetime:
    """Return the machine's time; certificates must be valid for TLS."""
    return datetime.now(UTC)  # noqa: TID251 - a benchmark is no part of the product


@contextmanager
def data_directory() -> Iterator[Path]:
    """Hold the ceremony in a temporary folder; yields DIR of `tinyfleet init --data-dir DIR`."""
    with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as folder:
        command = [str(Path(sys.executable).with_name("tinyfleet")), "init", "--data-dir", folder]
        environment = {**os.environ, "TINYFLEET_PASSPHRASE": PASSPHRASE}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        yield Path(folder)


@contextmanager
def service(data_dir: Path) -> Iterator[dict[str, Any]]:
    """Run `tinyfleet serve` on free ports; yields what service.json says."""
    service_dir = data_dir / "service"
    ports = [f"--{name}-port=0" for name in ("operator", "device", "mqtt")]
    command = [str(Path(sys.executable).with_name("tinyfleet")), "serve", "--data-dir", str(service_dir), *ports]
    log = (data_dir / "service.log").open("ab")
    environment = {**os.environ, "TINYFLEET_ATTESTATIONS_PER_HOUR": "1000000"}  # few devices stand for many
    process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        yield _ready(process, service_dir / "service.json")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        log.close()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, its threads included (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _ready(process: subprocess.Popen[bytes], path: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"service: expected it to run, found exit {process.returncode}")
        if path.exists():
            content: dict[str, Any] = json.loads(path.read_text())
            if content["pid"] == process.pid:
                return content
        time.sleep(0.05)
    raise RuntimeError(f"service: expected it ready within {START_SECONDS} s, found it not")


def make_clients(data_dir: Path, count: int) -> list[Client]:
    """Make devices with a valid LDevID each."""
    authority = issuing_authority(data_dir / "service")
    folder = data_dir / "clients"
    folder.mkdir(exist_ok=True)
    return [_client(folder, authority, index) for index in range(count)]


def _client(folder: Path, authority: Any, index: int) -> Client:
    identity, operational = SoftwareSigner.generate(), SoftwareSigner.generate()
    device_id = device_id_of(identity.public_key)
    profile = profiles.ldevid(device_id, now=now(), lifetime=timedelta(hours=24))
    leaf = authority.issue(profile, operational.public_key)
    client = Client(device_id, folder / f"{index}.pem", folder / f"{index}.key")
    client.certificate.write_bytes(chain_pem([leaf, authority.certificate]))
    private = operational.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    client.key.write_bytes(private)
    return client


def register(data_dir: Path, clients: list[Client], total: int) -> None:
    """Write the clients and as many further devices as make `total` into the stopped service's database."""
    key = SoftwareSigner.generate().public_key
    ids = [client.device_id for client in clients]
    ids += [DeviceId(os.urandom(64).hex()) for _ in range(total - len(clients))]
    insert_devices(data_dir, dict.fromkeys(ids, key))


def insert_devices(data_dir: Path, identity_keys: dict[DeviceId, ec.EllipticCurvePublicKey]) -> None:
    """Write claimed devices into the stopped service's database."""
    product, group = ({"name": "bench", "description": "", "created_at": now(), "version": 1} for _ in range(2))
    product["product_id"] = str(uuid.uuid4())
    group |= {"product_id": product["product_id"], "group_id": str(uuid.uuid4())}
    group |= {"os_feed": "Retail", "update_policy": "UpdateAll", "allow_crash_dumps": False, "data_boundary": "None"}
    device = {"group_id": group["group_id"], "state": "active", "claimed_at": now(), "claimed_by": "bench"}
    device |= {"idevid_chain": "", "blocked_reason": "", "version": 1}
    rows = [{**device, "device_id": i, "identity_key": spki_der(key)} for i, key in identity_keys.items()]
    engine = create_engine(f"sqlite:///{data_dir / 'service' / 'tinyfleet.db'}")
    with engine.begin() as connection:
        connection.execute(tables.products.insert(), product)
        connection.execute(tables.device_groups.insert(), group)
        connection.execute(tables.devices.insert(), rows)
    engine.dispose()
