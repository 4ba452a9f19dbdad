"""The files of deployments/ are what service and machine take, as far as it shows without a container engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.bootstrap.service import running
from service.config import Settings, load_settings
from tests.postgresql import fresh_database, postgresql_server
from tests.service_folder import make_folders

DEPLOYMENTS = Path(__file__).parents[3] / "deployments"
FREE_PORTS = {"operator_port": 0, "device_port": 0, "mqtt_port": 0}


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """systemd-analyze finds no fault once the program's path is one of this machine."""
    program_of_systemd = shutil.which("systemd-analyze")
    if program_of_systemd is None:
        pytest.fail("expected systemd-analyze to be installed; on Debian: apt-get install systemd")
    unit = (DEPLOYMENTS / "systemd" / "tinyfleet.service").read_text()
    program = Path(sys.executable).with_name("tinyfleet")
    (tmp_path / "tinyfleet.service").write_text(unit.replace("/opt/tinyfleet/bin/tinyfleet", str(program)))
    done = subprocess.run(
        [program_of_systemd, "verify", "--man=no", tmp_path / "tinyfleet.service"], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.decode()) == (0, "")


def test_compose_file_names_only_what_it_declares() -> None:
    """Every volume and secret that a service of the compose file uses is declared, and the build's file exists."""
    compose = yaml.safe_load((DEPLOYMENTS / "container" / "compose.yaml").read_text())
    for service in compose["services"].values():
        assert {v.partition(":")[0] for v in service["volumes"] if not v.startswith(".")} <= compose["volumes"].keys()
        assert set(service["secrets"]) <= compose["secrets"].keys()
    build = compose["services"]["tinyfleet"]["build"]
    assert (DEPLOYMENTS / "container" / build["context"] / build["dockerfile"]).is_file()


def test_compose_file_sets_only_settings_that_exist() -> None:
    """Each TINYFLEET_ variable of the compose file is a setting."""
    compose = yaml.safe_load((DEPLOYMENTS / "container" / "compose.yaml").read_text())
    names = {name.removeprefix("TINYFLEET_").lower() for name in compose["services"]["tinyfleet"]["environment"]}
    assert names <= Settings.model_fields.keys()


def test_dockerfile_copies_what_the_wheel_holds() -> None:
    """Every folder that the Dockerfile copies exists, and every package of the wheel is among them."""
    root = DEPLOYMENTS.parent
    text = (DEPLOYMENTS / "container" / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE) for name in line.split()}
    assert all((root / name).exists() for name in copied)
    assert {"protocol", "pki", "tinyml", "service", "device_sim", "simulation"} <= copied


def test_settings_file_documents_every_setting() -> None:
    """deployments/tinyfleet.toml names each setting, commented out or not."""
    text = (DEPLOYMENTS / "tinyfleet.toml").read_text()
    named = set(re.findall(r"^#?\s*([a-z_]+) = ", text, re.MULTILINE))
    assert named == set(Settings.model_fields)


@pytest.mark.parametrize("name", ["tinyfleet.toml", "tinyfleet-postgresql.toml"])
def test_settings_file_loads(name: str) -> None:
    """Both settings files are accepted as they stand."""
    assert load_settings(DEPLOYMENTS / name).data_dir == Path("/var/lib/tinyfleet")


async def test_service_starts_with_the_settings_file(tmp_path: Path) -> None:
    """The embedded service starts with the documented settings on a folder of its own."""
    folders = make_folders(tmp_path)
    settings = load_settings(DEPLOYMENTS / "tinyfleet.toml", data_dir=folders.service, host="127.0.0.1", **FREE_PORTS)
    async with running(settings) as service:
        assert service.operator_url.startswith("https://")


async def test_service_starts_with_the_postgresql_settings(tmp_path: Path) -> None:
    """The service starts with the PostgreSQL settings, its databases on a server of the test's own."""
    folders = make_folders(tmp_path)
    password = tmp_path / "database_password"
    password.write_text("of-a-server-that-trusts-loopback\n")
    arguments: dict[str, Any] = {"data_dir": folders.service, "host": "127.0.0.1", **FREE_PORTS}
    with postgresql_server() as server:
        async with fresh_database(server) as control, fresh_database(server) as telemetry:
            settings = load_settings(
                DEPLOYMENTS / "tinyfleet-postgresql.toml",
                **arguments,
                database_url=control,
                telemetry_url=telemetry,
                database_password_file=password,
            )
            async with running(settings) as service:
                assert service.mqtt_port > 0
