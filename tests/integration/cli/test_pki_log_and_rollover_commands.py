"""`tinyfleet pki log` and `tinyfleet pki rollover`, as an operator types them against a running service."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pki.files import PRIVATE_MODE, create_file
from pki.issuance import OPERATOR_LOG_FILE, read_file
from pki.transcript import CEREMONY_FOLDER
from service.cli.main import make_app
from service.cli.pki_log import HEAD_FILE
from tests.live_service import LiveService, live_service
from tests.service_folder import ADMIN_TOKEN, make_folders


@pytest.fixture
async def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LiveService]:
    folders = make_folders(tmp_path)
    create_file(folders.operator / "passphrase", b"correct horse battery", mode=PRIVATE_MODE)
    async with live_service(folders) as opened:
        login = {"url": opened.addresses.operator_url, "ca": "certificates/root.pem", "token": ADMIN_TOKEN}
        credential = folders.operator / "credential.json"
        credential.touch(mode=0o600)
        credential.write_text(json.dumps(login))
        monkeypatch.setitem(os.environ, "TINYFLEET_OPERATOR_DIR", str(folders.operator))
        yield opened


async def typed(*words: object) -> Result:
    """Run a command in a thread, because the service runs in this one."""
    arguments = ["pki", *map(str, words)]
    return await asyncio.to_thread(CliRunner().invoke, make_app(arguments), arguments)


async def done(*words: object) -> str:
    result = await typed(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


async def failed(*words: object) -> str:
    result = await typed(*words)
    assert result.exit_code != 0
    return str(result.exception)


async def test_log_shows_and_verifies_what_was_issued(live: LiveService) -> None:
    """The service's entries and the operator's own; a second verification says what is new."""
    device = await live.claimed()
    await live.attest(device)
    assert "2 new" not in await done("log", "verify")
    shown = json.loads(await done("log", "show", "--json"))
    assert [(entry["sequence"], entry["kind"]) for entry in shown] == [(1, "ldevid")]
    assert shown[0]["subject"].endswith(device.device_id)
    assert device.device_id[:12] in await done("log", "show")
    await live.attest(device)
    assert "service: 2 entries, 1 new since the last verification" in await done("log", "verify")
    heads = json.loads(await done("log", "verify", "--json"))
    assert heads["service"]["sequence"] == 2
    assert heads == json.loads((live.folders.operator / HEAD_FILE).read_bytes())
    await live.attest(device)
    assert [entry["sequence"] for entry in json.loads(await done("log", "show", "--limit", 2, "--json"))] == [2, 3]


async def test_operators_log_holds_what_the_ceremony_signed(live: LiveService) -> None:
    """Without the service: the authorities and the service's certificates."""
    kinds = [entry["kind"] for entry in json.loads(await done("log", "show", "--offline", "--json"))]
    assert kinds.count("authority") >= 4
    assert "server" in kinds
    assert (await done("log", "verify", "--offline")).startswith(f"operator: {len(kinds)} entries")
    assert list(json.loads(await done("log", "verify", "--offline", "--json"))) == ["operator"]
    heads = json.loads((live.folders.operator / HEAD_FILE).read_bytes())
    assert (heads["service"]["sequence"], heads["operator"]["sequence"]) == (0, len(kinds))


async def test_log_that_was_cut_before_anybody_verified_it_shows(live: LiveService) -> None:
    """The ceremony's transcript, which the root signed, says what must be in it."""
    log = live.folders.operator / OPERATOR_LOG_FILE
    whole = log.read_bytes()
    for left in (0, 3):
        log.write_bytes(b"".join(whole.splitlines(keepends=True)[:left]))
        assert "of which a transcript tells, found none" in await failed("log", "verify", "--offline")
    log.unlink()
    assert "expected an entry of operator/certificates/root.pem" in await failed("log", "verify", "--offline")
    assert not (live.folders.operator / HEAD_FILE).exists()
    log.write_bytes(whole)
    await done("log", "verify", "--offline")


async def test_log_without_any_transcript_is_verified_with_a_remark(live: LiveService) -> None:
    """Whoever takes the transcripts away and cuts the log is not found, but what could tell is missed."""
    log = live.folders.operator / OPERATOR_LOG_FILE
    assert "found none" not in (await typed("log", "verify", "--offline")).output
    (live.folders.operator / HEAD_FILE).unlink()
    shutil.rmtree(live.folders.operator / CEREMONY_FOLDER)
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:3]))
    told = await typed("log", "verify", "--offline")
    assert told.exit_code == 0
    assert "expected a ceremony's transcripts, found none" in " ".join(told.stderr.split())
    assert told.stdout.startswith("operator: 3 entries")


async def test_interrupted_write_is_told_and_head_file_is_checked(live: LiveService) -> None:
    """Half a line at the end is no tampering; a head file that makes no sense is no head."""
    log = live.folders.operator / OPERATOR_LOG_FILE
    log.write_bytes(log.read_bytes() + b'{"at"')
    told = " ".join((await typed("log", "verify", "--offline")).output.split())
    assert "a line without its end: an interrupted write" in told
    assert "or an entry that somebody cut" in told
    (live.folders.operator / HEAD_FILE).write_text('{"service": 1}')
    assert "expected where the logs ended" in await failed("log", "verify", "--offline")


async def test_rollover_is_led_by_commands(live: LiveService) -> None:
    """Request, sign offline, activate, status; what the root signed is in the operator's log."""
    folder = live.folders.operator
    assert "run `rollover … request`" in await failed("rollover", "issuing-ca", "sign")
    await done("rollover", "issuing-ca", "request")
    await done("rollover", "issuing-ca", "sign", "--offline")
    assert await states() == ["active", "requested"]
    entries = len(list(read_file(folder / OPERATOR_LOG_FILE)))
    await done("rollover", "issuing-ca", "sign")
    assert await states() == ["active", "trusted"]
    assert len(list(read_file(folder / OPERATOR_LOG_FILE))) == entries
    await done("rollover", "issuing-ca", "activate", 2)
    assert await states() == ["trusted", "active"]
    assert "trusted" in await done("rollover", "issuing-ca", "status")
    await done("rollover", "issuing-ca", "retire", 1)
    assert await states() == ["retired", "active"]
    await done("log", "verify")


async def test_compromised_generation_is_replaced_by_commands(live: LiveService) -> None:
    """Signed without a certificate for the old key, and retired although a device's certificate is valid."""
    await live.attest(await live.claimed())
    await done("rollover", "issuing-ca", "request")
    await done("rollover", "issuing-ca", "sign", "--offline")
    await done("rollover", "issuing-ca", "activate", 2, "--compromised")
    assert "expected no valid certificate by generation 1" in await failed("rollover", "issuing-ca", "retire", 1)
    await done("rollover", "issuing-ca", "retire", 1, "--compromised")
    assert await states() == ["retired", "active"]
    assert not (live.folders.service / "certificates" / "issuing-ca-1-by-2.pem").exists()


async def states() -> list[str]:
    return [one["state"] for one in json.loads(await done("rollover", "issuing-ca", "status", "--json"))]
