"""What is said of a release, by the command line against the running service."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from typer.testing import CliRunner

from protocol.cyclonedx import read_bom, read_vex
from protocol.geometry import Slot
from protocol.image import digest_of
from service.adapters.database.engine import Database, database_url
from service.adapters.database.unit_of_work import SqlUnitOfWorkFactory
from service.cli.bills_maker import MakerBomError
from service.cli.errors import BadArgumentError, RefusedError
from service.cli.evidence import EvidenceError
from service.cli.main import make_app
from service.cli.working_copy import WorkingCopyError
from tests.integration.cli.live_operator import Operator, live_operator

SCHEMA = JsonStrictValidator(SchemaVersion.V1_6)
COMPONENT = "b7a1f569-9587-43f0-ac75-7edf5b558dec"
MAKER_BOM = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "metadata": {"component": {"type": "application", "name": "app-sources", "bom-ref": "whole"}},
    "components": [{"type": "library", "name": "mbedtls", "version": "3.6.0", "purl": "pkg:generic/mbedtls@3.6.0"}],
    "compositions": [{"aggregate": "complete", "assemblies": ["whole"]}],
}


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    monkeypatch.chdir(tmp_path)
    async with live_operator(tmp_path, monkeypatch) as opened:
        yield opened


def write(name: str, content: bytes) -> None:
    """Write a file of the operator's."""
    Path(name).write_bytes(content)


def read(name: str) -> bytes:
    """Read a file that a command wrote."""
    return Path(name).read_bytes()


def exists(name: str) -> bool:
    """Whether a command wrote a file."""
    return Path(name).exists()


async def pack(operator: Operator, name: str = "app.img", bom: object = MAKER_BOM) -> Any:
    """Make an application's package with its maker's bill."""
    write("payload.bin", name.encode() * 100)
    write("maker.cdx.json", json.dumps(bom).encode())
    labels = ("--name", "app", "--version", "1.0.0", "--component-id", COMPONENT, "--out", name)
    return await operator.succeed("image", "create", "payload.bin", *labels, "--bom", "maker.cdx.json")


async def release(operator: Operator) -> Any:
    """Bring a release of one application into force; returns what packing said of it."""
    packed = await pack(operator)
    said = ("--support-ends", "2031-12-31", "--source-uri", "git+https://example.org/app", "--source-commit", "ab" * 20)
    await operator.succeed("release", "create", "main", "app.img", *said, "--yes")
    return packed


async def test_what_is_said_of_a_release_is_downloaded_and_verified(operator: Operator) -> None:
    """The bill that the library's schema takes, provenance, an exploitability document, the release document."""
    image_id = (await release(operator))["image_id"]
    said = ("--vulnerability", "CVE-2026-0001", "--component", "mbedtls@3.6.0")
    await operator.succeed("vex", "add", "main", *said, "--state", "in_triage", "--yes")
    written = await operator.succeed("release", "documents", "main", "--output", "file")
    contents = {Path(name).name.split(".", 1)[1]: read(name) for name in written}
    assert set(contents) == {"release.json", "cdx.json", "intoto.json", "vex.cdx.json"}
    assert SCHEMA.validate_str(contents["cdx.json"].decode()) is None
    assert read_bom(contents["cdx.json"]).metadata.component.bom_ref == image_id
    vex = read_vex(contents["vex.cdx.json"])
    link = vex.components[0].external_references[0].url
    assert link.startswith(f"urn:cdx:{read_bom(contents['cdx.json']).serial_number.removeprefix('urn:uuid:')}/1#")
    listed = (await operator.service.operator.get("/releases/main/documents")).json()["items"]
    assert [item["kind"] for item in listed] == ["bom", "provenance", "vex"]
    for item in listed:
        answer = await operator.service.operator.get(f"/documents/{item['sha256']}")
        assert digest_of(answer.content) == item["sha256"]
    bom = await operator.service.operator.get(f"/images/{image_id}/bom")
    assert bom.content == contents["cdx.json"]


async def test_document_that_was_changed_in_the_service_is_not_written(operator: Operator) -> None:
    """The signed targets name another hash; nothing of the release is written."""
    await release(operator)
    listed = (await operator.service.operator.get("/releases/main/documents")).json()["items"]
    provenance = next(item for item in listed if item["kind"] == "provenance")
    (stored,) = (
        path
        for path in (operator.service.folders.service / "artifacts").rglob("*")
        if provenance["sha256"] in str(path)
    )
    content = stored.read_bytes()
    stored.write_bytes(content.replace(b'"payload":"', b'"payload":"A', 1)[: len(content)])
    for kept in (operator.folder / "repository" / "documents").rglob("*.json"):
        kept.unlink()
    error = await operator.failure("release", "documents", "main", "--output", "file")
    assert isinstance(error, WorkingCopyError | RefusedError), error
    assert not exists("file")


async def test_devices_that_run_a_component_are_named(operator: Operator) -> None:
    """By name, version, package URL, and by the vulnerability that makes it exploitable."""
    sha256 = (await release(operator))["sha256"]
    device = await operator.service.claimed()
    database = Database(database_url(operator.service.settings.database_location()))
    async with SqlUnitOfWorkFactory(database)() as work:
        await work.installed.put(device.device_id, {Slot.A7_APPLICATION: sha256}, at=operator.service.clock.now())
        await work.commit()
    await database.close()
    for wanted in ("mbedtls", "MBEDTLS@3.6.0", "pkg:generic/mbedtls", "app@1.0.0"):
        found = await operator.succeed("sbom", "find", wanted)
        assert found["devices_by_slot"] == {"a7/application": 1}, wanted
        assert [each["device_id"] for each in found["devices"]] == [device.device_id]
        assert found["images"][0]["devices"] == {"a7/application": 1}
    assert (await operator.succeed("sbom", "find", "mbedtls@3.6.1"))["devices_by_slot"] == {}
    cve = ("--vulnerability", "CVE-2026-0001")
    assert await operator.succeed("sbom", "find", "--vulnerable-to", cve[1]) == []
    await operator.succeed("vex", "add", "main", *cve, "--component", "mbedtls", "--state", "exploitable", "--yes")
    (found,) = await operator.succeed("sbom", "find", "--vulnerable-to", cve[1])
    assert found["devices_by_slot"] == {"a7/application": 1}
    said = ("--state", "not_affected", "--justification", "code_not_reachable", "--detail", "never called")
    await operator.succeed("vex", "add", "main", *cve, "--component", "mbedtls", *said, "--yes")
    assert await operator.succeed("sbom", "find", "--vulnerable-to", cve[1]) == []
    assert [each["state"] for each in await operator.succeed("vex", "list", "main")] == ["not_affected"]
    history = await operator.succeed("vex", "list", "--history")
    assert [each["state"] for each in history] == ["exploitable", "not_affected"]


async def test_bills_are_shown_and_exported(operator: Operator) -> None:
    """Of an image, and of a release."""
    image_id = (await release(operator))["image_id"]
    for what in ("main", image_id):
        (bill,) = await operator.succeed("sbom", "show", what)
        assert [each["name"] for each in bill["components"]] == ["app-sources", "mbedtls"]
        (file,) = await operator.succeed("sbom", "export", what, "--output", "bills")
        assert json.loads(read(file)) == bill


async def test_check_says_what_is_lacking(operator: Operator) -> None:
    """In words; an image without a bill of its maker's lacks one, one release may have all but statements."""
    await release(operator)
    result = await operator.run("release", "check", "main")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    there = {check["what"]: check["ok"] for check in report["checks"]}
    assert there["bill of materials of app@1.0.0"]
    assert there["provenance"]
    assert there["end of support"]
    assert not there["exploitability statements (VEX)"]
    await pack(operator, "bare.img")
    note = json.loads(read("bare.img.json"))
    write("bare.img.json", json.dumps({name: value for name, value in note.items() if name != "bom"}).encode())
    await operator.succeed("release", "create", "bare", "bare.img", "--yes")
    report = json.loads((await operator.run("release", "check", "bare")).stdout)
    assert {"bill of materials of app@1.0.0", "end of support"} <= set(report["lacking"])


async def test_audit_trail_is_exported_whole(operator: Operator) -> None:
    """A line of JSON for each change, the newest first; a file has its name only once it is whole."""
    await release(operator)
    await asyncio.to_thread(_export, operator, "--output", "audit.jsonl")
    entries = [json.loads(line) for line in read("audit.jsonl").splitlines()]
    listed = (await operator.service.operator.get("/audit", params={"limit": 1000})).json()["items"]
    assert entries == listed
    assert {"release.create", "artifact.add"} <= {entry["action"] for entry in entries}
    assert not exists("audit.jsonl.unfinished")
    printed = await asyncio.to_thread(_export, operator, "--since", "2999-01-01")
    assert printed == ""
    assert (await asyncio.to_thread(_export, operator)).count("\n") == len(entries)


def _export(operator: Operator, *arguments: str) -> str:
    command = ["audit", "export", *arguments, "--operator-dir", str(operator.folder)]
    result = CliRunner().invoke(make_app(command), command)
    assert result.exception is None, result.exception
    return result.stdout


async def test_what_makes_no_sense_is_refused(operator: Operator) -> None:
    """Nothing is signed."""
    await release(operator)
    cve = ("--vulnerability", "CVE-2026-0001", "--component")
    refused = [
        (BadArgumentError, ("vex", "add", "main", *cve, "mbedtls", "--state", "not_affected", "--yes")),
        (BadArgumentError, ("vex", "add", "main", *cve, "other", "--state", "in_triage", "--yes")),
        (EvidenceError, ("vex", "add", "none", *cve, "mbedtls", "--state", "in_triage", "--yes")),
        (EvidenceError, ("release", "check", "none")),
        (BadArgumentError, ("sbom", "find")),
        (BadArgumentError, ("sbom", "find", "@1")),
    ]
    for expected, command in refused:
        assert isinstance(await operator.failure(*command), expected), command
    with pytest.raises(AssertionError) as packed:
        await pack(operator, "hostile.img", {"bomFormat": "CycloneDX", "specVersion": "1.5", "surprise": 1})
    assert isinstance(packed.value.args[0], MakerBomError)
    assert not exists("hostile.img")
