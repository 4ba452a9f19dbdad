"""Certificates per second and core, through the whole attestation use case, beside the bare `cryptography` loop.

The use case is called in this process, without HTTP: CSR and evidence verified, nonce taken, evidence appraised,
certificate issued, result, device and issuance log written. What a device does (keys, evidence, CSR) is done before
the clock runs. Peer of every row is the same loop of the same run: one CSR loaded and its signature checked, one
certificate with the same extensions built and signed, nothing else. Rows: without database, on SQLite and on
PostgreSQL, with the issuing key in a file and in a SoftHSM2 token; for the token the peer loop signs in it as well.

A core is a second of this process's CPU time, all its threads together, for both: what else the machine does, and
waiting for a disk or a database server, is not counted. The rate by the clock is in each row's note.
"""

import asyncio
import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pki import profiles
from pki.authority import CertificateAuthority
from pki.online import online_keys
from pki.roles import OnlineKey
from pki.signer_key import SignerKey
from pki.tokens import stop_modules
from protocol.identity import device_id_in, spki_der
from protocol.messages import AttestationRequest
from protocol.signing import Signer, SoftwareSigner
from service.adapters.certificates import Authorities, PkiIssuer, load_authorities
from service.adapters.clock import SystemClock
from service.adapters.database import device_tables as tables
from service.adapters.database.engine import Database, database_url
from service.adapters.database.migration import migrate
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.adapters.entropy import SystemEntropy
from service.application.attestation import Attestation
from service.application.clones import Clones
from service.application.device_repositories import NoncePurpose
from service.application.identity import DevicePeer
from service.application.standing import Standings
from service.application.unit_of_work import UnitOfWorkFactory
from service.domain.device import Device
from tests.attesting_device import HONEST, AttestingDevice
from tests.benchmarks.bench_service import now
from tests.benchmarks.memory_work import MemoryWork
from tests.integration.service_devices.device_world import ImagesOfTests
from tests.postgresql import fresh_database, postgresql_server
from tests.service_folder import Folders, hold_test_ceremony
from tests.softhsm import make_softhsm

DEVICES = 256
AT_ONCE = 128  # devices that wait for an answer at any time
ROUNDS = 9  # each between two bare loops, because a busy machine changes its speed from one second to the next
BARE_SECONDS = 0.5
A_MILLION_A_DAY = 1_000_000 / 86_400  # attestations per second


@dataclass(frozen=True, slots=True)
class Rate:
    """Certificates per second of CPU time, and per second of the clock."""

    of_core: float
    of_clock: float


@dataclass(frozen=True, slots=True)
class Beside:
    """A rate, that of the bare loop beside it, per second of CPU time, and the ratio; each a median of the rounds."""

    ours: Rate
    bare: float
    ratio: float


class Watch:
    """Measures rounds of the parts that count, and bare loops between them.

    Args:
        bare: how often a core makes a bare certificate; measured anew with each call.
    """

    def __init__(self, bare: Callable[[], float]) -> None:
        self._bare = bare
        self._bares = [bare()]
        self._rates: list[Rate] = []

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        """Measure one round, in which something is done `count` times."""
        core, clock = time.process_time(), time.perf_counter()
        yield
        core, clock = time.process_time() - core, time.perf_counter() - clock
        self._rates.append(Rate(count / core, count / clock))
        self._bares.append(self._bare())

    def result(self) -> Beside:
        """Return the medians."""
        beside = [(before + after) / 2 for before, after in pairwise(self._bares)]
        ratios = [rate.of_core / bare for rate, bare in zip(self._rates, beside, strict=True)]
        ours = Rate(median(rate.of_core for rate in self._rates), median(rate.of_clock for rate in self._rates))
        return Beside(ours, median(beside), median(ratios))


async def attestation_rate(
    unit_of_work: UnitOfWorkFactory, authorities: Authorities, devices: Sequence[AttestingDevice], *, watch: Watch
) -> Beside:
    """Let every device attest several times; the time of the use case alone counts."""
    listed = ImagesOfTests()
    for component in HONEST.components:
        listed.list(component)
    attestation = Attestation(
        unit_of_work,
        issuer=PkiIssuer(authorities, SystemClock(), lifetime=timedelta(days=1)),
        reference_values=listed,
        clones=Clones(unit_of_work, clock=SystemClock(), blocks=False),
        clock=SystemClock(),
        entropy=SystemEntropy(),
        standings=Standings(),
        nonce_lifetime=timedelta(minutes=10),
    )
    background = asyncio.create_task(attestation.run())
    peers = [device.peer for device in devices]

    async def attest(waiting: Iterator[tuple[DevicePeer, AttestationRequest]]) -> None:
        for peer, request in waiting:
            await attestation.attest(peer, request)

    for _ in range(ROUNDS):
        nonces = await asyncio.gather(*(attestation.give_nonce(p, purpose=NoncePurpose.ATTEST) for p in peers))
        requests = [d.request(n.nonce, SoftwareSigner.generate()) for d, n in zip(devices, nonces, strict=True)]
        waiting = iter(list(zip(peers, requests, strict=True)))
        with watch.running(len(devices)):
            await asyncio.gather(*(attest(waiting) for _ in range(AT_ONCE)))
    background.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await background
    return watch.result()


def bare_rate(authority: CertificateAuthority, signer: Signer, csrs: Sequence[bytes]) -> float:
    """Check each CSR and issue a certificate with `cryptography` alone, as often as one core can."""
    key: Any = signer.private_key if isinstance(signer, SoftwareSigner) else SignerKey(signer)
    csr: Any = x509.load_der_x509_csr(csrs[0])
    model = authority.issue(profiles.ldevid(device_id_in(csr), now=now()), csr.public_key())
    extensions = [(extension.value, extension.critical) for extension in model.extensions]
    count, begin = 0, time.process_time()
    while time.process_time() - begin < BARE_SECONDS:
        csr = x509.load_der_x509_csr(csrs[count % len(csrs)])
        if not csr.is_signature_valid:
            raise RuntimeError("CSR: expected a signature by its own key")
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(authority.certificate.subject)
            .public_key(csr.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(model.not_valid_before_utc)
            .not_valid_after(model.not_valid_after_utc)
        )
        for value, critical in extensions:
            builder = builder.add_extension(value, critical=critical)
        builder.sign(key, hashes.SHA256())
        count += 1
    return count / (time.process_time() - begin)


def registered(devices: Sequence[AttestingDevice]) -> list[Device]:
    """Return the devices as a catalog keeps them."""
    group = "11111111-1111-4111-8111-111111111111"
    return [
        Device(d.device_id, group, spki_der(d.identity.public_key), d.idevid_chain, claimed_at=now(), claimed_by="b")
        for d in devices
    ]


@asynccontextmanager
async def filled_database(url: str, devices: Sequence[AttestingDevice]) -> AsyncIterator[UnitOfWorkFactory]:
    """Migrate a database and write the devices."""
    database = Database(database_url(url))
    try:
        await migrate(database)
        known = registered(devices)
        product: dict[str, Any] = {
            "product_id": known[0].group_id,
            "name": "bench",
            "description": "",
            "created_at": now(),
        }
        group: dict[str, Any] = {
            "group_id": known[0].group_id,
            "product_id": known[0].group_id,
            "name": "bench",
            "description": "",
        }
        group |= {"os_feed": "Retail", "update_policy": "UpdateAll", "allow_crash_dumps": False}
        group |= {"data_boundary": "None", "created_at": now(), "version": 1}
        async with database.engine.begin() as connection:
            await connection.execute(tables.products.insert(), [{**product, "version": 1}])
            await connection.execute(tables.device_groups.insert(), [group])
        unit_of_work = SqlUnitOfWorkFactory(database)
        async with unit_of_work() as work:
            for device in known:
                await work.devices.add(device)
            await work.commit()
        yield unit_of_work
    finally:
        await database.close()


def row(name: str, found: Beside) -> dict[str, Any]:
    """Return one row, with the share of a core that a million devices a day take."""
    share = A_MILLION_A_DAY / found.ours.of_core
    note = f"1 M devices a day take {share:.1%} of a core; {found.ours.of_clock:,.0f}/s by the clock; "
    note += f"peer: bare cryptography loop; medians of {ROUNDS} rounds"
    numbers = {"ours": found.ours.of_core, "peer": found.bare, "ratio": found.ratio}
    return {"name": name, **numbers, "unit": "certificates/s", "note": note}


async def measure(folders: Folders, *, where: str) -> list[dict[str, Any]]:
    """Measure one key store on every database, the bare loop before and after each."""
    authorities = load_authorities(folders.service)
    devices = [AttestingDevice(folders) for _ in range(DEVICES)]
    authority, signer = authorities.issuing_ca, online_keys(folders.service).load(OnlineKey.ISSUING_CA)
    csrs = [device.csr(SoftwareSigner.generate()) for device in devices]
    rows = []

    async def add(name: str, unit_of_work: UnitOfWorkFactory) -> None:
        watch = Watch(lambda: bare_rate(authority, signer, csrs))
        found = await attestation_rate(unit_of_work, authorities, devices, watch=watch)
        rows.append(row(f"certificates, {name}, key in {where}", found))

    async def add_database(name: str, url: str) -> None:
        async with filled_database(url, devices) as unit_of_work:
            await add(name, unit_of_work)

    memory: Any = MemoryWork(registered(devices))
    await add("no database", memory)
    with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as folder, postgresql_server() as server:
        await add_database("SQLite", f"sqlite:///{folder}/bench.db")
        async with fresh_database(server) as url:
            await add_database("PostgreSQL", url)
    return rows


def main() -> None:
    """Print the rows."""
    with tempfile.TemporaryDirectory(prefix="tinyfleet-bench-") as name:
        folder = Path(name)
        rows = asyncio.run(measure(hold_test_ceremony(folder / "files"), where="a file"))
        token = make_softhsm(folder / "token")
        os.environ["SOFTHSM2_CONF"] = str(token.conf)
        token.add_token()
        token.route(folder / "hsm" / "service", [OnlineKey.ISSUING_CA])
        rows += asyncio.run(measure(hold_test_ceremony(folder / "hsm"), where="SoftHSM2"))
        stop_modules()
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
