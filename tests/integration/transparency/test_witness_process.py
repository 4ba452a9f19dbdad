"""Witnesses as processes of their own: the service works with them over HTTP, and one that is killed loses nothing."""

import asyncio
import hashlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pki.log_key import load_log_key, load_witness_key, make_witness_key, requested_log_key
from protocol.merkle import EMPTY_ROOT
from protocol.notes import Ed25519Signer, UnverifiedNote
from protocol.tlog import MAX_REQUEST_BYTES, AddCheckpoint, Checkpoint
from service.adapters.database.engine import Database, database_url
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.application.publication import Publication
from service.application.transparency import Transparency
from service.application.update_repositories import MetadataFile, MetadataRole, RepositoryName
from tests.live_service import FIRST_ENTRIES, LiveService, live_service
from tests.log_witnesses import require_witnesses
from tests.service_folder import Folders, make_folders
from tests.service_processes import until


@dataclass
class WitnessProcess:
    """`tinyfleet log witness` in a process of its own."""

    vkey: str
    port: int
    process: asyncio.subprocess.Process

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


def _witness_key(folder: Path) -> str:
    if (folder / "key").exists():
        return str(load_witness_key(folder / "key").key)
    return str(make_witness_key(folder / "key", f"witness.example/{folder.name}"))


@asynccontextmanager
async def witness_process(folder: Path, log: str, *, port: int = 0) -> AsyncIterator[WitnessProcess]:
    """Run a witness; the same folder again is the same witness."""
    vkey = _witness_key(folder)
    options = ["--key", str(folder / "key"), "--state", str(folder / "state"), "--log", log]
    options += ["--listen", f"127.0.0.1:{port}"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service.cli.main", "log", "witness", *options, stderr=asyncio.subprocess.PIPE
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while not (line := (await process.stderr.readline()).decode()).startswith("listening on"):
                assert line, "the witness ended before it listened"
        yield WitnessProcess(vkey, int(line.rpartition(":")[2]), process)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """The ceremony's folders."""
    return make_folders(tmp_path / "init")


async def _grow(service: LiveService, *, version: int) -> None:
    """Log a root, as another process on the same database would."""
    database = Database(database_url(service.settings.database_location()))
    key, now = load_log_key(service.folders.service).key, service.clock.now()
    root = MetadataFile(RepositoryName.DIRECTOR, MetadataRole.ROOT, version, str(version).encode(), now)
    try:
        factory = SqlUnitOfWorkFactory(database)
        async with factory() as work:
            await Transparency(factory, key=key, clock=service.clock).published(work, Publication((root,)), now=now)
            await work.commit()
    finally:
        await database.close()


async def _until_covered(service: LiveService, size: int) -> None:
    async def is_covered() -> bool:
        answer = (await service.operator.get("/log")).json()
        return f"\n{size}\n" in (answer["checkpoint"] or "")

    await until(is_covered)


async def test_witness_that_is_killed_delays_proofs_alone(folders: Folders, tmp_path: Path) -> None:
    """Both must cosign: one is killed, the log grows, the service says who is missing; started again, it goes on."""
    log = str(requested_log_key(folders.service))
    async with witness_process(tmp_path / "w1", log) as one, witness_process(tmp_path / "w2", log) as other:
        require_witnesses(folders, (one.vkey, other.vkey), quorum=2)
        settings = [f"{each.vkey} {each.url}" for each in (one, other)]
        async with live_service(folders, witnesses=settings) as service:
            await _until_covered(service, FIRST_ENTRIES)
            await other.kill()
            await _grow(service, version=2)

            async def is_missed() -> bool:
                states = (await service.operator.get("/log")).json()["witnesses"]
                return [bool(state["problem"]) for state in states] == [False, True]

            await until(is_missed)
            assert (await service.operator.get("/log")).json()["size"] == FIRST_ENTRIES + 1
            async with witness_process(tmp_path / "w2", log, port=other.port):
                await _until_covered(service, FIRST_ENTRIES + 1)


async def test_service_that_is_restarted_goes_on(folders: Folders, tmp_path: Path) -> None:
    """The witness knows how far the log was; the service asks it."""
    log = str(requested_log_key(folders.service))
    async with witness_process(tmp_path / "w1", log) as witness:
        require_witnesses(folders, (witness.vkey,), quorum=1)
        settings = [f"{witness.vkey} {witness.url}"]
        async with live_service(folders, witnesses=settings) as service:
            await _until_covered(service, FIRST_ENTRIES)
        async with live_service(folders, witnesses=settings) as service:
            await _grow(service, version=2)
            await _until_covered(service, (await service.operator.get("/log")).json()["size"])


async def test_killed_witness_remembers_what_it_cosigned(tmp_path: Path) -> None:
    """Whatever it answered before it was killed, it would not cosign another past."""
    signer = Ed25519Signer("some/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))

    def request(size: int, old_size: int, root: bytes) -> bytes:
        text = Checkpoint("some/log", size, root).text()
        return AddCheckpoint(old_size, (), UnverifiedNote(text, (signer.sign(text),)).encode()).encode()

    origin = hashlib.sha256(b"some/log").hexdigest()
    async with httpx.AsyncClient() as http:
        async with witness_process(tmp_path / "w1", str(signer.key)) as witness:
            answer = await http.post(f"{witness.url}/add-checkpoint", content=request(5, 0, b"\x01" * 32))
            assert answer.text.startswith("— witness.example/w1 ")
            await witness.kill()
        async with witness_process(tmp_path / "w1", str(signer.key)) as witness:
            url = f"{witness.url}/add-checkpoint"
            conflict = await http.post(url, content=request(5, 0, b"\x02" * 32))
            assert (conflict.status_code, conflict.text) == (409, "5\n")
            assert conflict.headers["Content-Type"] == "text/x.tlog.size"
            assert (await http.post(url, content=request(5, 5, b"\x02" * 32))).status_code == 422
            assert (await http.post(url, content=request(0, 5, EMPTY_ROOT))).status_code == 400
            assert (await http.post(url, content=b"x" * (MAX_REQUEST_BYTES + 1))).status_code == 413
            kept = await http.get(f"{witness.url}/{origin}/checkpoint")
            assert kept.text.endswith(answer.text)
            assert (await http.get(f"{witness.url}/{'00' * 32}/checkpoint")).status_code == 404


async def test_two_witnesses_do_not_share_a_state(tmp_path: Path) -> None:
    """They could cosign two pasts."""
    signer = Ed25519Signer("some/log", Ed25519PrivateKey.from_private_bytes(bytes(32)))
    async with witness_process(tmp_path / "w1", str(signer.key)):
        with pytest.raises(AssertionError, match="ended before it listened"):
            async with witness_process(tmp_path / "w1", str(signer.key)):
                pass
