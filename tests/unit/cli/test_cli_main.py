"""Exit codes and error lines of `tinyfleet`."""

import subprocess
import sys
from pathlib import Path


def _tinyfleet(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli.main", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def test_help_ends_with_zero(tmp_path: Path) -> None:
    """Help is no failure."""
    result = _tinyfleet(tmp_path, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "rollout" in result.stdout


def test_failure_is_one_line_and_exit_code_one(tmp_path: Path) -> None:
    """A failed command says what was expected and found, without a traceback."""
    result = _tinyfleet(tmp_path, "device", "list")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_verbose_shows_the_cause(tmp_path: Path) -> None:
    """--verbose adds the chain of causes."""
    result = _tinyfleet(tmp_path, "--verbose", "device", "list")
    assert result.returncode == 1
    assert "FileNotFoundError" in result.stderr


def test_wrong_usage_ends_with_two(tmp_path: Path) -> None:
    """An unknown option, and a value without a meaning, are wrong usage."""
    assert _tinyfleet(tmp_path, "device", "list", "--nonsense").returncode == 2
    assert _tinyfleet(tmp_path, "rollout", "start", "r", "--group", "g", "--stages", "x").returncode == 2
