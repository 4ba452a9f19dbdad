"""What is said of a release is taken from the signed metadata, whatever the service leaves out or holds."""

import json
from pathlib import Path

import pytest
from sqlalchemy import delete

from service.adapters.database.engine import Database, database_url
from service.adapters.database.supply_chain_tables import documents
from tests.integration.cli.live_operator import Operator, live_operator
from tests.integration.service_documents.test_evidence_commands import release

STATEMENT = ("--vulnerability", "CVE-2026-0001", "--component", "mbedtls@3.6.0")
NOT_AFFECTED = ("--state", "not_affected", "--justification", "code_not_reachable")


async def forget_documents(operator: Operator) -> None:
    """Make the service leave every document out of its lists."""
    database = Database(database_url(operator.service.settings.database_location()))
    try:
        async with database.transaction(read_only=False) as connection:
            await connection.execute(delete(documents))
            await connection.commit()
    finally:
        await database.close()


async def test_statement_that_the_service_leaves_out_is_found_and_the_newest_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An open vulnerability stays lacking; what was said after it, within the same second, settles it."""
    monkeypatch.chdir(tmp_path)
    async with live_operator(tmp_path, monkeypatch) as operator:
        await release(operator)
        await operator.succeed("vex", "add", "main", *STATEMENT, "--state", "exploitable", "--yes")
        await forget_documents(operator)
        report = json.loads((await operator.run("release", "check", "main")).stdout)
        assert "exploitability statements (VEX)" in report["lacking"]
        await operator.succeed("vex", "add", "main", *STATEMENT, *NOT_AFFECTED, "--yes")
        await forget_documents(operator)
        report = json.loads((await operator.run("release", "check", "main")).stdout)
        assert "exploitability statements (VEX)" not in report["lacking"]


async def test_document_that_was_changed_in_the_store_is_no_half_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status says that it failed, and the answer is a problem document."""
    monkeypatch.chdir(tmp_path)
    async with live_operator(tmp_path, monkeypatch) as operator:
        await release(operator)
        listed = (await operator.service.operator.get("/releases/main/documents")).json()["items"]
        (sha256,) = (each["sha256"] for each in listed if each["kind"] == "provenance")
        (file,) = (operator.service.folders.service / "artifacts").rglob(sha256)
        file.write_bytes(file.read_bytes()[::-1])
        answer = await operator.service.operator.get(f"/documents/{sha256}")
        assert answer.status_code == 503
        assert answer.json()["type"] == "urn:tinyfleet:problem:artifact-store"
