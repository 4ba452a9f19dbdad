"""`tinyfleet product set` against the running service."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.cli.live_operator import Operator, live_operator


@pytest.fixture
async def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Operator]:
    async with live_operator(tmp_path, monkeypatch) as opened:
        yield opened


async def test_est_is_switched_off_and_on(operator: Operator) -> None:
    """By the product's name; lists show it."""
    assert (await operator.succeed("product", "list"))[0]["est"] is True
    assert (await operator.succeed("product", "set", "Camera", "--no-est"))["est"] is False
    assert (await operator.succeed("product", "list"))[0]["est"] is False
    assert (await operator.succeed("product", "set", "Camera", "--est"))["est"] is True
