"""What provenance records of a command: its words, without the folders of this machine."""

from pathlib import Path

import pytest

from service.cli.release_documents import without_folders


def test_files_lose_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute or relative, there already or not, as an argument or with its option."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    assert without_folders(f"{tmp_path}/app.img") == "app.img"
    assert without_folders("out/proposal.json") == "proposal.json"
    assert without_folders(f"--operator-dir={tmp_path}/out") == "--operator-dir=out"


@pytest.mark.parametrize(
    "word",
    ["create", "--yes", "app.img", "2031-12-31", "git+https://example.org/app", "--supplier=Acme / Works", "a7/x"],
)
def test_other_words_stay(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slash alone makes no place on this machine."""
    monkeypatch.chdir(tmp_path)
    assert without_folders(word) == word
