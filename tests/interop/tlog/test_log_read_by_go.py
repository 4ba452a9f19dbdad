"""Our logs in the hands of Go's sumdb packages, which run the Go checksum database, and theirs in ours.

The peer is a Go program beside this file. It needs the `go` command and, the first time, the Go module proxy; where
either is missing these tests are skipped, and say so.
"""

import base64
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.merkle import (
    check_consistency,
    check_inclusion,
    consistency_ranges,
    inclusion_ranges,
    leaf_hash,
    prove,
    range_hash,
)
from protocol.notes import Ed25519Signer, UnverifiedNote, parse_vkey, verify_note
from protocol.tiles import Tile, TileKey, extend, leaf_hashes_of, reader
from protocol.tlog import Checkpoint, parse_checkpoint

pytestmark = pytest.mark.timeout(300)  # the first test builds the peer

FOLDER = Path(__file__).parent
DOWNLOAD_SECONDS, BUILD_SECONDS, RUN_SECONDS = 60, 200, 20
SIGNER = Ed25519Signer("tinyfleet/log", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
TILES = (Tile(0, 0, 5), Tile(0, 1234067), Tile(2, 999, 255), Tile(1, 1000))
CASES = [(1, 0, 1), (2, 1, 1), (5, 2, 3), (300, 299, 256), (300, 0, 255), (700, 512, 300), (1000, 77, 1000)]


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built once."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("no `go` command: Go's sumdb cannot be built")
    program = tmp_path_factory.mktemp("peer") / "tlogpeer"
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    try:
        subprocess.run(
            [go, "mod", "download"],
            cwd=FOLDER,
            env=environment,
            check=True,
            capture_output=True,
            timeout=DOWNLOAD_SECONDS,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"no Go module proxy: {error}")
    built = subprocess.run(
        [go, "build", "-o", str(program), "."],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        timeout=BUILD_SECONDS,
        check=False,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    return program


def _base64(hashes: list[bytes]) -> list[str]:
    return [base64.b64encode(each).decode() for each in hashes]


def _run(peer: Path, given: dict[str, object]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [peer], input=json.dumps(given).encode(), capture_output=True, timeout=RUN_SECONDS, check=False
    )


def _log(size: int, index: int, old_size: int) -> tuple[dict[str, object], bytes, bytes]:
    """Return a log as the peer takes it, and its roots, old and new."""
    entries = [f"entry {number}".encode() for number in range(size)]
    tiles: dict[TileKey, bytes] = extend(0, leaf_hashes_of(entries), {})
    read = reader(tiles)
    old_root, root = range_hash((0, old_size), read), range_hash((0, size), read)
    text = Checkpoint(SIGNER.key.name, size, root).text()
    given: dict[str, object] = {
        "vkey": str(SIGNER.key),
        "note": base64.b64encode(UnverifiedNote(text, (SIGNER.sign(text),)).encode()).decode(),
        "entries": _base64(entries),
        "index": index,
        "inclusion": _base64(prove(inclusion_ranges(index, size), read)),
        "old_size": old_size,
        "consistency": _base64(prove(consistency_ranges(old_size, size), read)),
        "tiles": [{"level": t.level, "number": t.number, "width": t.width, "path": t.path()} for t in TILES],
    }
    return given, old_root, root


@pytest.mark.parametrize(("size", "index", "old_size"), CASES)
def test_go_verifies_our_log_and_we_verify_its(peer: Path, size: int, index: int, old_size: int) -> None:
    """Checkpoint, inclusion, consistency and the names of tiles; both ways."""
    given, old_root, root = _log(size, index, old_size)
    answer = _run(peer, given)
    assert answer.returncode == 0, answer.stderr
    theirs: dict[str, Any] = json.loads(answer.stdout)
    key = parse_vkey(theirs["vkey"])
    verified = verify_note(base64.b64decode(theirs["note"]), [key])
    assert key in verified.signed_by
    assert parse_checkpoint(verified.text) == Checkpoint("go.example/log", size, root)
    inclusion = [base64.b64decode(each) for each in theirs["inclusion"]]
    check_inclusion(leaf_hash(f"entry {index}".encode()), index, inclusion, size=size, root=root)
    consistency = [base64.b64decode(each) for each in theirs["consistency"]]
    check_consistency(consistency, old_size=old_size, old_root=old_root, size=size, root=root)


def test_go_refuses_what_we_spoil(peer: Path) -> None:
    """The peer does check."""
    for name in ("inclusion", "consistency"):
        given, *_ = _log(300, 7, 100)
        hashes = given[name]
        assert isinstance(hashes, list)
        given[name] = [base64.b64encode(bytes(32)).decode(), *hashes[1:]]
        assert _run(peer, given).returncode == 1
