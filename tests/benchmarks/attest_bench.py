"""Attestation-to-certificate exchanges per second: nonce, evidence and CSR in, LDevID out, over mutual TLS.

The real service in a process of its own with SQLite, the factory release published by the CLI, and devices that sign
real evidence over keep-alive connections with their IDevIDs. The peer column is the bare `cryptography` loop of the
same run: one CSR checked and one certificate issued, nothing else.
"""

import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from pki import profiles
from pki.csr import verify_ldevid_csr
from pki.online import issuing_authority
from protocol.document import canonical_json, parse_document
from protocol.evidence import SoftwareComponent
from protocol.messages import AttestationReply, NonceReply, NonceRequest
from protocol.signing import SoftwareSigner
from protocol.updates import ReleaseDocument
from tests.attesting_device import HONEST, AttestingDevice, client_context
from tests.benchmarks.bench_service import PASSPHRASE, data_directory, insert_devices, now, service
from tests.service_folder import Folders

DEVICES = 8
SECONDS = 10


def booted(operator_dir: Path) -> tuple[SoftwareComponent, ...]:
    """Return what an honest device of the factory release measures."""
    document = next((operator_dir / "repository").rglob("*-factory.json"))
    release = parse_document(document.read_bytes(), ReleaseDocument)
    return tuple(
        replace(part, measurement=bytes.fromhex(release.images[slot].sha256))
        for part in HONEST.components
        for slot in release.images
        if slot.value == part.type
    )


def exchange(connection: http.client.HTTPSConnection, device: AttestingDevice) -> None:
    """Ask for a nonce, answer with evidence, and take the certificate."""
    reply = parse_document(_post(connection, "nonce", NonceRequest(device_nonce=os.urandom(32))), NonceReply)
    request = device.request(reply.nonce, SoftwareSigner.generate())
    parse_document(_post(connection, "", request), AttestationReply)


def _post(connection: http.client.HTTPSConnection, path: str, document: Any) -> bytes:
    target = f"/device/v1/attest/{path}".rstrip("/")
    connection.request("POST", target, canonical_json(document), {"Content-Type": "application/json"})
    response = connection.getresponse()
    body = response.read()
    if response.status != http.client.OK:
        raise RuntimeError(f"expected 200, found {response.status}: {body[:500]!r}")
    return body


def exchanges_per_second(running: dict[str, Any], devices: list[AttestingDevice]) -> float:
    """Run the devices side by side for a while."""
    host, port = running["device_url"].removeprefix("https://").rsplit(":", 1)
    counts = [0] * len(devices)
    errors: list[Exception] = []
    contexts: list[ssl.SSLContext] = [client_context(Path(running["ca"]), d.identity, d.idevid_chain) for d in devices]
    deadline = time.perf_counter() + SECONDS

    def run(index: int) -> None:
        connection = http.client.HTTPSConnection(host, int(port), context=contexts[index], timeout=30)
        try:
            while time.perf_counter() < deadline:
                exchange(connection, devices[index])
                counts[index] += 1
        except Exception as error:  # noqa: BLE001 - reported by the caller
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(devices))]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - begin)


def bare_loop(data_dir: Path, device: AttestingDevice) -> float:
    """Check a CSR and issue a certificate, as often as one core can."""
    authority = issuing_authority(data_dir / "service")
    csr = device.csr(SoftwareSigner.generate())
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < 3:
        verified = verify_ldevid_csr(csr, device.device_id, identity_key=device.identity.public_key)
        authority.issue(profiles.ldevid(device.device_id, now=now(), lifetime=timedelta(days=1)), verified.public_key)
        count += 1
    return count / (time.perf_counter() - begin)


def main() -> None:
    """Print the row."""
    with data_directory() as data_dir:
        environment = {**os.environ, "TINYFLEET_PASSPHRASE": PASSPHRASE}
        folders = Folders(operator=data_dir / "operator", service=data_dir / "service")
        devices = [AttestingDevice(folders) for _ in range(DEVICES)]
        with service(data_dir) as running:
            login = folders.operator / "credential.json"
            login.write_text(json.dumps(json.loads(login.read_text()) | {"url": running["operator_url"]}))
            command = [
                str(Path(sys.executable).with_name("tinyfleet")),
                "factory",
                "images",
                "--json",
                "--operator-dir",
            ]
            subprocess.run([*command, str(folders.operator)], check=True, env=environment, stdout=subprocess.DEVNULL)
        insert_devices(data_dir, {d.device_id: d.identity.public_key for d in devices})
        parts = booted(folders.operator)
        for device in devices:
            device.evidence = replace(device.evidence, components=parts)
        with service(data_dir) as running:
            mine = exchanges_per_second(running, devices)
        bare = bare_loop(data_dir, devices[0])
    note = f"{DEVICES} devices, SQLite, evidence verified and appraised; peer: CSR check and issue alone, one core"
    row = {"name": "attestation to certificate", "ours": mine, "peer": bare, "ratio": mine / bare}
    print(json.dumps([{**row, "unit": "exchanges/s", "note": note}]))


if __name__ == "__main__":
    main()
