"""The ceremony as processes: killed at every step, verified, tampered with, renewed, and served."""

import asyncio
import multiprocessing
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from pki.ceremony_check import check_ceremony
from pki.ceremony_renewal import issue_again
from pki.errors import EarlierFolderError
from pki.keystore import PASSPHRASE_VARIABLE, FileKeyStore
from pki.online import request_again, request_online_keys
from pki.roles import OnlineKey
from pki.stores import KeyStores
from service.bootstrap.service import running
from service.config import load_settings
from tests.earlier_folder import hold_as_version_0_1
from tests.integration.cli.killed_ceremony import POINTS, hold_until, keys_of
from tests.live_service import OffsetClock, live_service
from tests.service_folder import make_folders

DECLARATION = """\
catalog: Example works
participants: [Ada Lovelace, Grace Hopper]
hostnames: [fleet.example]
publish_url: http://fleet.example:8444
root: {name: Example root, valid_days: 7300}
intermediates:
  factory: {name: Example factory, valid_days: 7300}
  issuing-ca: {name: Example devices, valid_days: 365}
  server-ca: {name: Example servers, valid_days: 3650, permitted: [fleet.example, localhost, 127.0.0.1, "::1"]}
certificates: {server: {valid_days: 90}, ocsp: {valid_days: 90}, package: {valid_days: 3650}}
"""


def test_ceremony_killed_at_every_step_goes_on(tmp_path: Path) -> None:
    """SIGKILL with a file half made, with one that is in no journal yet, and after the step; in the end all is well."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.integration.cli.killed_ceremony"])
    killed = dict.fromkeys(POINTS, 0)
    exit_code: int | None = None
    while exit_code != 0:
        for point in POINTS:
            process = context.Process(target=hold_until, args=(tmp_path, point))
            process.start()
            process.join()
            exit_code = process.exitcode
            if exit_code == 0:
                break
            assert exit_code == -signal.SIGKILL
            killed[point] += 1
    checked = check_ceremony(tmp_path, keys=keys_of(tmp_path))
    assert checked.findings == []
    requests = len(OnlineKey) + 1  # the log's too; a request is taken, not made
    files_made = len(checked.transcripts[0].steps) - requests
    assert all(count >= files_made - 1 for count in killed.values()), killed


def _words(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "service.cli.main", "pki", *map(str, words)]


def _run(*words: str | Path, answers: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, PASSPHRASE_VARIABLE: "correct horse battery"}
    return subprocess.run(_words(*words), capture_output=True, text=True, check=False, env=environment, input=answers)


def _kill_at(prompt: str, *words: str | Path) -> None:
    """Answer every question with yes until the prompt comes, then kill the process."""
    environment = {**os.environ, PASSPHRASE_VARIABLE: "correct horse battery", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        _words(*words), stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        seen = b""
        while prompt.encode() not in seen:
            byte = process.stderr.read(1)
            assert byte, seen
            seen += byte
            if seen.endswith(b"type yes:") and prompt.encode() not in seen:
                process.stdin.write(b"yes\n")
                process.stdin.flush()
        process.kill()
    assert process.returncode == -signal.SIGKILL


def test_declared_ceremony_from_the_command_line(tmp_path: Path) -> None:
    """Refused steps, a killed process, the end, verification, tampering, renewal: as an operator lives it."""
    declaration, folder = tmp_path / "ceremony.yaml", tmp_path / "data"
    declaration.write_text(DECLARATION)
    refused = _run("ceremony", declaration, "--data-dir", folder, answers="yes\nno\n")
    assert (refused.returncode, " key root in store file; type yes:" in refused.stderr) == (1, True)
    _kill_at(" certificate factory by root", "ceremony", declaration, "--data-dir", folder)
    assert not (folder / "operator" / "ceremony" / "0001.json").exists()
    unfinished = _run("ceremony", "--verify", folder)
    assert (unfinished.returncode, "expected operator/ceremony/0001.json" in unfinished.stderr) == (1, True)
    finished = _run("ceremony", declaration, "--data-dir", folder, "--yes", "--url", "https://fleet.example:8443")
    assert finished.returncode == 0, finished.stderr
    assert " working copy of catalog.json" in finished.stderr
    assert "certificate root by itself" not in finished.stderr
    sound = _run("ceremony", "--verify", folder, "--with-keys")
    assert sound.returncode == 0, sound.stdout + sound.stderr
    assert "by Ada Lovelace, Grace Hopper: 37 steps" in sound.stdout
    _tamper_and_verify(folder)
    _renew(folder)


def _tamper_and_verify(folder: Path) -> None:
    path = folder / "service" / "certificates" / "issuing-ca.pem"
    before = path.read_bytes()
    path.write_bytes((folder / "operator" / "certificates" / "factory.pem").read_bytes())
    found = _run("ceremony", "--verify", "--data-dir", folder)
    assert (found.returncode, "service/certificates/issuing-ca.pem: subject: expected" in found.stdout) == (1, True)
    path.write_bytes(before)
    wrong_paper = _run("ceremony", "--verify", folder, "--root", "00" * 32)
    assert (wrong_paper.returncode, "root certificate: expected SHA-256 0000" in wrong_paper.stdout) == (1, True)


def _renew(folder: Path) -> None:
    nothing = _run("issue", "server", "--data-dir", folder)
    assert (nothing.returncode, "expected a request that waits" in nothing.stderr) == (1, True)
    assert _run("request", "server", "--service-dir", folder / "service").returncode == 0
    issued = _run("issue", "server", "--data-dir", folder)
    assert issued.returncode == 0, issued.stderr
    sound = _run("ceremony", "--verify", folder, "--with-keys")
    assert (sound.returncode, "11 certificates as declared, 2 transcripts" in sound.stdout) == (0, True)


async def test_service_takes_a_renewed_certificate_when_it_starts(tmp_path: Path) -> None:
    """Of the new key, in all three listeners; the one before is out of use."""
    folders = make_folders(tmp_path)
    request_again(folders.service, OnlineKey.SERVER)
    now = OffsetClock().now()
    issue_again(tmp_path, OnlineKey.SERVER, keys=KeyStores(folders.keys.files), now=now)
    expected = (folders.service / "certificates" / "server-2.pem").read_text()
    async with live_service(folders) as service:
        ports = [int(url.rpartition(":")[2]) for url in (service.addresses.operator_url, service.addresses.device_url)]
        for port in (*ports, service.addresses.mqtt_port):
            found = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))
            assert expected.startswith(found)


async def test_service_on_a_folder_of_an_earlier_version_says_what_to_run(tmp_path: Path) -> None:
    """Then it starts, once that has been run, with the certificates that it had."""
    keys = KeyStores(FileKeyStore(tmp_path / "operator" / "keys", passphrase=b"correct horse battery".__bytes__))
    hold_as_version_0_1(tmp_path, keys, now=OffsetClock().now())
    (tmp_path / "service" / "operators.json").write_text("[]")
    free_ports = {"operator_port": 0, "device_port": 0, "mqtt_port": 0}
    settings = load_settings(None, data_dir=tmp_path / "service", **free_ports)
    with pytest.raises(EarlierFolderError, match=r"expected server-ca and ocsp, found a folder of an earlier version"):
        async with running(settings):
            pass
    request_online_keys(tmp_path / "service")
    declaration = tmp_path / "ceremony.yaml"
    declaration.write_text("catalog: demo\nparticipants: [Ada]\n")
    before = (tmp_path / "service" / "certificates" / "server.pem").read_bytes()
    adopted = _run("ceremony", declaration, "--data-dir", tmp_path, "--yes", "--adopt")
    assert adopted.returncode == 0, adopted.stderr
    async with running(settings):
        pass
    assert (tmp_path / "service" / "certificates" / "server.pem").read_bytes() == before
    assert _run("ceremony", "--verify", tmp_path).returncode == 0
