"""Settings: file, variables and arguments, and the documented file."""

import tomllib
from pathlib import Path

import pytest

from service.config import Settings, SettingsError, load_settings

DEPLOYMENTS = Path(__file__).parents[3] / "deployments"


def write(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text)
    return file


def test_arguments_win_over_variables_and_those_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source fills in what the stronger ones leave open."""
    file = write(tmp_path, 'data_dir = "/a"\noperator_port = 1\ndevice_port = 1\nmqtt_port = 1\n')
    monkeypatch.setenv("TINYFLEET_DEVICE_PORT", "2")
    monkeypatch.setenv("TINYFLEET_MQTT_PORT", "2")
    settings = load_settings(file, mqtt_port=3, host=None)
    assert (settings.operator_port, settings.device_port, settings.mqtt_port) == (1, 2, 3)


def test_databases_are_in_the_data_directory_unless_said_otherwise(tmp_path: Path) -> None:
    """The embedded default needs no other server and no other setting."""
    settings = load_settings(None, data_dir=tmp_path)
    assert settings.database_location() == f"sqlite:///{tmp_path}/tinyfleet.db"
    assert settings.telemetry_location() == f"sqlite:///{tmp_path}/telemetry.db"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "setting data_dir: Field required"),
        ('data_dir = "/a"\nspeed = 1\n', "setting speed: Extra inputs"),
        ('data_dir = "/a"\nmqtt_port = 70000\n', "setting mqtt_port: Input should be less than"),
        ('data_dir = "/a"\npoll_seconds = 0\n', "setting poll_seconds: Input should be greater than 0"),
        ("data_dir", "expected TOML"),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, text: str, message: str) -> None:
    """The error says which setting broke which rule."""
    with pytest.raises(SettingsError, match=message):
        load_settings(write(tmp_path, text))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that was asked for must be there."""
    with pytest.raises(SettingsError, match="expected a file"):
        load_settings(tmp_path / "none.toml")


def test_password_comes_from_a_file(tmp_path: Path) -> None:
    """And an unreadable file is an error, not an empty password."""
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    assert load_settings(None, data_dir=tmp_path, database_password_file=secret).database_password() == "s3cret"
    with pytest.raises(SettingsError, match="expected a readable file"):
        load_settings(None, data_dir=tmp_path, database_password_file=tmp_path / "none").database_password()


def test_documented_file_names_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """deployments/tinyfleet.toml is complete and true."""
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TINYFLEET_{name.upper()}", raising=False)
    file = DEPLOYMENTS / "tinyfleet.toml"
    documented = tomllib.loads(file.read_text())
    commented = {"database_password_file", "witness_ca_file"}
    assert set(documented) | commented == set(Settings.model_fields)
    defaults = load_settings(None, data_dir=documented["data_dir"])
    assert load_settings(file).model_dump() == defaults.model_dump()


def test_postgresql_file_loads() -> None:
    """The other documented file holds known settings alone."""
    settings = load_settings(DEPLOYMENTS / "tinyfleet-postgresql.toml")
    assert settings.database_location().startswith("postgresql://")
