"""Without the extra or the compiler, emulated cores say what to install before any device starts."""

import importlib.util
from pathlib import Path

import pytest

from device_sim.emulation.errors import EmulationMissingError
from device_sim.emulation.opening import open_emulated


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator itself works without Unicorn."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EmulationMissingError, match=r"pip install 'tinyfleet\[emulation\]'"):
        open_emulated()


def test_without_the_compiler_the_error_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unicorn alone runs nothing."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: object())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmulationMissingError, match="emulated cores: expected arm-none-eabi-gcc on the PATH"):
        open_emulated()
