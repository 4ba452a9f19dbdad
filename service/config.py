"""Settings of the service: a TOML file, overridden by TINYFLEET_* variables, overridden by arguments.

deployments/tinyfleet.toml documents every setting with its default.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource
from typing_extensions import override

from service.domain.errors import ServiceError

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class SettingsError(ServiceError):
    """The settings are incomplete, unknown or out of range."""


class Settings(BaseSettings):
    """Everything that can be set.

    Attributes:
        data_dir: the service's folder: keys, certificates, genesis, and by default databases and artifacts.
        database_url: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`; empty for tinyfleet.db in data_dir.
        database_password_file: holds the password for PostgreSQL, so that it stands in no URL or variable.
        telemetry_url: the same for telemetry; empty for telemetry.db in data_dir.
        artifacts_url: where packages are kept, `file:///…`, `s3://…`; empty for artifacts/ in data_dir.
        artifact_cache_bytes: packages that were asked for lately are kept in memory up to so many bytes; 0 keeps none.
        host: address that all three listeners bind.
        operator_port: HTTPS for operators; 0 takes a free port.
        device_port: HTTPS with mutual TLS for devices; 0 takes a free port.
        mqtt_port: MQTT with mutual TLS for devices; 0 takes a free port.
        mqtt_connections: most at once of the gateway, those in their TLS handshake included.
        mqtt_connections_per_source: of these from one IP address; devices behind one NAT share it.
        hostname: name or address under which clients reach the service; the server certificate must hold it.
        log_format: JSON lines for machines, or text for people.
        log_level: least severity that is logged.
        certificate_lifetime_seconds: validity of an LDevID; devices renew at half of it.
        nonce_lifetime_seconds: for a device to answer with evidence.
        attestations_per_hour: most nonces, and most attestations, that one device may ask of one process.
        challenge_lifetime_seconds: for an operator to claim devices with one challenge.
        last_seen_flush_seconds: how often times of check-ins are written, in one batch.
        event_retention_days: how long a stream can resume.
        telemetry_retention_days: telemetry that is older is deleted.
        health_slot_seconds: devices are compared within fixed periods of this length; they sum up as long, or shorter.
        poll_seconds: a device's time between polls, before jitter.
        busy_poll_seconds: the same while a rollout runs; a large fleet polls less often than either.
        tick_seconds: longest time between two looks of the worker at rollouts.
        two_person_actions: what takes two operators: device.block, device.unblock, device.decommission, …
        approval_lifetime_seconds: for a second operator to decide.
        witnesses: of the transparency log, each a verifier key, a space and the URL that takes its checkpoints.
        witness_ca_file: PEM certificates that witnesses' TLS certificates chain to; None for the machine's.
        delta_sources: patches are made from so many images of a slot, the most common; 0 switches them off.
        delta_max_percent: of the full image; a patch that is larger is not offered.
        on_clone: what becomes of a device that two live ones seem to be: an alarm, or a block as well.
    """

    model_config = SettingsConfigDict(env_prefix="TINYFLEET_", extra="forbid", frozen=True)

    data_dir: Path
    database_url: str = ""
    database_password_file: Path | None = None
    telemetry_url: str = ""
    artifacts_url: str = ""
    artifact_cache_bytes: Annotated[int, Field(ge=0)] = 64 * 1024 * 1024
    host: str = "127.0.0.1"
    operator_port: Port = 8443
    device_port: Port = 8444
    mqtt_port: Port = 8883
    mqtt_connections: Annotated[int, Field(ge=1)] = 20_000
    mqtt_connections_per_source: Annotated[int, Field(ge=1)] = 1_000
    hostname: str = "127.0.0.1"
    log_format: Literal["json", "text"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    certificate_lifetime_seconds: Seconds = 86_400.0
    nonce_lifetime_seconds: Seconds = 120.0
    attestations_per_hour: Annotated[int, Field(ge=1)] = 60
    challenge_lifetime_seconds: Seconds = 900.0
    last_seen_flush_seconds: Seconds = 10.0
    event_retention_days: Seconds = 30.0
    telemetry_retention_days: Seconds = 90.0
    health_slot_seconds: Annotated[float, Field(ge=10, le=86_400)] = 3_600.0
    poll_seconds: Seconds = 60.0
    busy_poll_seconds: Seconds = 5.0
    tick_seconds: Seconds = 1.0
    two_person_actions: tuple[str, ...] = ()
    approval_lifetime_seconds: Seconds = 86_400.0
    witnesses: tuple[str, ...] = ()
    witness_ca_file: Path | None = None
    delta_sources: Annotated[int, Field(ge=0, le=64)] = 8
    delta_max_percent: Annotated[float, Field(gt=0, le=100)] = 70.0
    on_clone: Literal["alarm", "block"] = "alarm"

    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over variables, and those over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    def database_location(self) -> str:
        """Return the URL of the control database."""
        return self.database_url or f"sqlite:///{self.data_dir / 'tinyfleet.db'}"

    def telemetry_location(self) -> str:
        """Return the URL of the telemetry database."""
        return self.telemetry_url or f"sqlite:///{self.data_dir / 'telemetry.db'}"

    def database_password(self) -> str | None:
        """Read the password for PostgreSQL, if it is in a file.

        Raises:
            SettingsError: the file cannot be read.
        """
        if self.database_password_file is None:
            return None
        try:
            return self.database_password_file.read_text().strip()
        except OSError as error:
            raise SettingsError(f"database_password_file: expected a readable file, found {error.strerror}") from error


def load_settings(settings_file: Path | None = None, **arguments: Any) -> Settings:  # noqa: ANN401 - what pydantic will check
    """Read the settings.

    Args:
        settings_file: TOML; None for variables and arguments alone.
        arguments: settings that win over file and variables; None leaves one to them.

    Raises:
        SettingsError: the file is unreadable, or a setting is missing, unknown or out of range.
    """
    if settings_file is not None and not settings_file.is_file():
        raise SettingsError(f"settings: expected a file {settings_file}, found none")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=settings_file)

    try:
        return FromFile(**{name: value for name, value in arguments.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"setting {name}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"settings {settings_file}: expected TOML, found {error}") from error
