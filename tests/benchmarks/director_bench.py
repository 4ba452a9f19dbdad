"""Update metadata: the Director's sets signed per second and core, the whole check of a device, and what it must read.

Rows: the Director's three files for one device, beside python-tuf's own way to sign the same three files; a device's
whole check over a new mutual-TLS connection (both repositories, a Director set signed for it); and what a device reads
and how long it takes to verify one target among 10,000 and among 1,000,000, in one file and in hash bins, with
python-tuf's client as it runs in the simulated device.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from device_sim.network.ports import HttpResponse
from device_sim.update.repository import CONFIG, MetadataFetcher, MetadataStore, Repository
from pki.metadata import DirectorSigner, content_target, director_target
from protocol.geometry import Slot
from protocol.signing import SoftwareSigner, TufSigner
from protocol.updates import DEVICE_FIELD, DirectorDevice, ImageCustom, image_target_name
from tests.benchmarks.bench_service import cpu_seconds, data_directory, make_clients, now, register, service

SECONDS = 4
DEVICES = 300
BINS = 4096
BASE = "/device/v1/uptane"
CHECK = [
    "/device/v1/poll",
    *(f"{BASE}/director/{file}.json" for file in ("timestamp", "snapshot", "targets")),
    *(f"{BASE}/image/{file}.json" for file in ("timestamp", "snapshot", "targets")),
]
_COMPACT = JSONSerializer(compact=True)
_GUID = "253ee667-88ae-4f55-acf6-{:012x}"


def per_second(work: Callable[[int], object]) -> float:
    """Call `work` with 1, 2, … for some seconds; return calls per second of processor time."""
    count, begin, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < begin + SECONDS:
        count += 1
        work(count)
    return count / (time.process_time() - cpu)


def image_target(number: int) -> TargetFile:
    """Return a model image as the Image repository describes it."""
    custom = ImageCustom(
        slot_kind=Slot.M4_0_MODEL.kind,
        hardware_ids=(Slot.M4_0_MODEL.core.hardware_id,),
        component_id=_GUID.format(0),
        image_id=_GUID.format(number),
        name=f"person-detection@1.{number}.0",
        security_counter=1,
        built_at=now(),
    )
    name = image_target_name(Slot.M4_0_MODEL, custom.image_id)
    return content_target(name, number.to_bytes(8, "big"), custom.model_dump(mode="json"))


def director_rows() -> list[dict[str, Any]]:
    """Sign Director sets, ours and python-tuf's way."""
    key = SoftwareSigner.generate()
    ours, peer = DirectorSigner(key), TufSigner(key)
    target = director_target(image_target(1), slot=Slot.M4_0_MODEL, release="releases/1-main.json")
    device = DirectorDevice(device_id="a" * 128, action_id=_GUID.format(2))
    expires = (now() + timedelta(days=1)).replace(microsecond=0)
    named = {DEVICE_FIELD: device.model_dump(mode="json")}

    def theirs(version: int) -> None:
        meta = MetaFile(version)
        each: tuple[Any, ...] = (
            Targets(version, expires=expires, targets={target.path: target}, unrecognized_fields=named),
            Snapshot(version, expires=expires, meta={"targets.json": meta}),
            Timestamp(version, expires=expires, snapshot_meta=meta),
        )
        for signed in each:
            metadata = Metadata(signed)
            metadata.sign(peer)
            metadata.to_bytes(_COMPACT)

    found = per_second(lambda version: ours.sign_set(device, [target], version=version, expires=expires))
    return [
        row("Director sets signed (python-tuf's Metadata.sign and to_bytes)", found, per_second(theirs), "1/s and core")
    ]


def check_rows() -> list[dict[str, Any]]:
    """Let devices look for an update, each over a new connection; the service's processor time is what counts."""
    with data_directory() as data_dir:
        with service(data_dir):
            pass  # makes the database
        clients = make_clients(data_dir, DEVICES)
        register(data_dir, clients, DEVICES)
        with service(data_dir) as running:
            plan = {
                "host": "localhost",
                "port": int(running["device_url"].rsplit(":", 1)[1]),
                "ca": running["ca"],
                "clients": [{"certificate": str(c.certificate), "key": str(c.key)} for c in clients],
                "paths": CHECK,
            }
            before = cpu_seconds(running["pid"])
            result = load(plan)
            used = cpu_seconds(running["pid"]) - before
    note = (
        f"{result['checks'] / result['seconds']:.0f}/s beside the load, {result['bytes'] / DEVICES / 1024:.1f} KiB each"
    )
    name = "whole update check over a new mutual-TLS connection, Director set signed, SQLite"
    return [row(name, result["checks"] / used, None, "1/s and core", note)]


def load(plan: dict[str, Any]) -> dict[str, float]:
    """Run the load generator in its own process."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(plan, file)
        file.flush()
        script = Path(__file__).parent / "check_load.py"
        done = subprocess.run([sys.executable, script, file.name], stdout=subprocess.PIPE, check=True)
    counted: dict[str, float] = json.loads(done.stdout)
    return counted


class Files:
    """A transport over files in memory; counts what is read."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.bytes = 0

    def request(
        self,
        method: str,  # noqa: ARG002 - as the port has it
        path: str,
        *,
        max_bytes: int,  # noqa: ARG002
        body: bytes | None = None,  # noqa: ARG002
        headers: Mapping[str, str] | None = None,  # noqa: ARG002
    ) -> HttpResponse:
        """Answer with a file or 404."""
        content = self.files.get(path.rpartition("/")[2])
        if content is None:
            return HttpResponse(404, {}, b"")
        self.bytes += len(content)
        return HttpResponse(200, {}, content)

    def close(self) -> None:
        """Nothing is open."""


class Memory:
    """Secure storage in memory."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """Return what is kept."""
        return self._kept.get(name)

    def put(self, name: str, value: bytes) -> None:
        """Keep it."""
        self._kept[name] = value


def repository(total: int, *, bins: int) -> tuple[dict[str, bytes], str]:
    """Make a repository of `total` images; with bins, only the one that the wanted image falls into is written out."""
    key = TufSigner(SoftwareSigner.generate())
    expires = (now() + timedelta(days=1)).replace(microsecond=0)
    root = Root(1, expires=expires, consistent_snapshot=False)
    for role in (Root.type, Targets.type, Snapshot.type, Timestamp.type):
        root.add_key(key.public_key, role)
    wanted = image_target_name(Slot.M4_0_MODEL, _GUID.format(total // 2))
    roles = {"targets": Targets(1, expires=expires)}
    meta = {"targets.json": MetaFile(1)}
    if bins:
        keyid = key.public_key.keyid
        succinct = SuccinctRoles([keyid], 1, bins.bit_length() - 1, "bin")
        top = DelegatedRole("bins", [keyid], 1, terminating=True, paths=["images/*/*/*"])
        roles["targets"].delegations = Delegations({keyid: key.public_key}, {"bins": top})
        delegations = Delegations({keyid: key.public_key}, succinct_roles=succinct)
        roles["bins"] = Targets(1, expires=expires, delegations=delegations)
        chosen = succinct.get_role_for_target(wanted)
        numbers = [n for n in range(total) if succinct.get_role_for_target(_name(n)) == chosen]
        roles[chosen] = Targets(1, expires=expires, targets=_by_name(numbers))
        meta |= {f"{name}.json": MetaFile(1) for name in ("bins", *succinct.get_roles())}
    else:
        roles["targets"].targets = _by_name(range(total))
    signed = {**roles, "snapshot": Snapshot(1, expires=expires, meta=meta), "root": root}
    files = {f"{name}.json": sign(each, key) for name, each in signed.items()}
    files["timestamp.json"] = sign(Timestamp(1, expires=expires, snapshot_meta=MetaFile(1)), key)
    return files, wanted


def _name(number: int) -> str:
    return image_target_name(Slot.M4_0_MODEL, _GUID.format(number))


def _by_name(numbers: Any) -> dict[str, TargetFile]:
    return {target.path: target for target in map(image_target, numbers)}


def sign(signed: Any, key: TufSigner) -> bytes:
    """Sign one file of the synthetic repository."""
    metadata = Metadata(signed)
    metadata.sign(key)
    return metadata.to_bytes(_COMPACT)


def verify_row(total: int, bins: int) -> dict[str, Any]:
    """Let a device find one target among many."""
    files, wanted = repository(total, bins=bins)
    seconds: list[float] = []
    transport = Files(files)
    for _ in range(5):
        transport = Files(files)
        store = MetadataStore(Memory(), "image", anchor=files["root.json"])
        begin = time.process_time()
        found = Repository(store, "/", fetcher=MetadataFetcher(transport), now=now())
        found.check(lambda _: None)
        if found.find(wanted) is None:
            raise RuntimeError(f"{wanted}: expected it in the repository, found nothing")
        seconds.append(time.process_time() - begin)
    where = f"{bins:,} hash bins" if bins else "one file"
    name = f"device verifies one target of {total:,} in {where}"
    return row(name, 1000 * sorted(seconds)[2], None, "ms", f"{transport.bytes / 1000:,.0f} kB read")


def row(name: str, ours: float, peer: float | None, unit: str, note: str = "") -> dict[str, Any]:
    """Return one row of the table."""
    ratio = None if peer is None else ours / peer
    return {"name": name, "ours": ours, "peer": peer, "ratio": ratio, "unit": unit, "note": note}


def main() -> None:
    """Print the rows; a device would refuse so large a file, so that its limit is lifted for the comparison."""
    CONFIG.targets_max_length = 16 * 1024 * 1024
    verified = [verify_row(10_000, 0), verify_row(10_000, 256), verify_row(1_000_000, BINS)]
    print(json.dumps([*director_rows(), *check_rows(), *verified]))


if __name__ == "__main__":
    main()
