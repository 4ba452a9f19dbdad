"""A catalog from before there was a log: the service logs all the same, and one command has devices require it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tuf.api.metadata import Metadata, Root

from protocol.transparency import policy_of
from service.cli.errors import BadArgumentError
from service.cli.log import NoPolicyError
from tests import service_folder
from tests.integration.cli.live_operator import Operator, live_operator
from tests.live_service import FIRST_ENTRIES
from tests.log_witnesses import cosigner, forget_log
from tests.quick_folders import make_quick_folders


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    """A running service whose Image root says nothing of the log."""

    def without_log(target: Path) -> service_folder.Folders:
        folders = make_quick_folders(target)
        forget_log(folders)
        return folders

    monkeypatch.setattr("tests.integration.cli.live_operator.make_quick_folders", without_log)
    async with live_operator(tmp_path, monkeypatch) as opened:
        yield opened


async def _root(operator: Operator) -> Root:
    content = (await operator.service.operator.get("/repository/image/root.json")).content
    return Metadata[Root].from_bytes(content).signed


async def test_log_is_required_and_released_by_the_root(operator: Operator) -> None:
    """Signed by the root keys; until then `verify` must be told whom to believe."""
    shown = await operator.succeed("log", "show")
    assert (shown["policy"], shown["size"]) == (None, FIRST_ENTRIES)
    assert isinstance(await operator.failure("log", "verify"), NoPolicyError)
    assert (await operator.succeed("log", "verify", "--log", shown["key"]))["size"] == FIRST_ENTRIES
    witnesses = [str(cosigner(number).key) for number in (1, 2)]
    await operator.succeed("log", "require", "--yes", "--witness", witnesses[0], "--witness", witnesses[1])
    root = await _root(operator)
    policy = policy_of(root)
    assert policy is not None
    assert (root.version, policy.log, policy.witnesses, policy.quorum) == (2, shown["key"], tuple(witnesses), 2)
    shown = await operator.succeed("log", "show")
    assert (shown["size"], shown["policy"]["quorum"]) == (FIRST_ENTRIES + 1, 2)
    failure = await operator.failure("log", "require", "--yes", "--witness", witnesses[0], "--witness", witnesses[1])
    assert isinstance(failure, BadArgumentError)
    await operator.succeed("log", "release", "--yes")
    assert policy_of(await _root(operator)) is None
