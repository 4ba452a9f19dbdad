"""The documents name files that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/device-protocol.md", "docs/security-model.md"])
def test_every_file_that_a_page_names_exists(page: str) -> None:
    """A path in backticks under one of our folders is a file or folder of the repository."""
    folders = ("protocol/", "pki/", "tinyml/", "service/", "device_sim/", "tests/", "deployments/", "docs/")
    named = re.findall(r"`([a-z_]+/[a-z0-9_./-]*)`", (ROOT / page).read_text())
    missing = [name for name in named if name.startswith(folders) and not (ROOT / name).exists()]
    assert named
    assert missing == []
