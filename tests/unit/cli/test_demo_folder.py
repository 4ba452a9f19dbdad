"""The demo's data directory: what is taken, refused and noted."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from service.cli.demo_folder import open_folder
from service.cli.errors import DemoFolderError


def test_finished_steps_survive(tmp_path: Path) -> None:
    """A second run finds what the first one noted."""
    with open_folder(tmp_path / "d", devices=3) as (folder, record):
        folder.note(replace(record, done=("init",)))
    with open_folder(tmp_path / "d", devices=3) as (_, again):
        assert again.done == ("init",)
        assert again.ports == record.ports


def test_ports_in_use_are_exchanged(tmp_path: Path) -> None:
    """A port that somebody took in between does not stop the second run."""
    with open_folder(tmp_path, devices=3) as (_, record):
        pass
    with (
        socket.create_server(("127.0.0.1", record.ports.device)),
        open_folder(tmp_path, devices=3) as (_, again),
    ):
        assert again.ports.device != record.ports.device


def test_directory_with_other_files_is_refused(tmp_path: Path) -> None:
    """The demo takes no directory that is not its own."""
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DemoFolderError, match="found other files"), open_folder(tmp_path, devices=3):
        pass


def test_file_is_refused(tmp_path: Path) -> None:
    """A file is no data directory."""
    (tmp_path / "f").write_text("")
    with pytest.raises(DemoFolderError, match="found a file"), open_folder(tmp_path / "f", devices=3):
        pass


def test_second_demo_at_once_is_refused(tmp_path: Path) -> None:
    """Two demos never work in one directory."""
    with (
        open_folder(tmp_path, devices=3),
        pytest.raises(DemoFolderError, match="one that runs"),
        open_folder(tmp_path, devices=3),
    ):
        pass


def test_other_number_of_devices_is_refused(tmp_path: Path) -> None:
    """A demo goes on with the devices it began with."""
    with open_folder(tmp_path, devices=3):
        pass
    with pytest.raises(DemoFolderError, match="expected 3 devices"), open_folder(tmp_path, devices=4):
        pass


def test_damaged_record_is_refused(tmp_path: Path) -> None:
    """A record that does not parse is an error that names the file."""
    with open_folder(tmp_path, devices=3):
        pass
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(DemoFolderError, match=r"demo\.json"), open_folder(tmp_path, devices=3):
        pass
