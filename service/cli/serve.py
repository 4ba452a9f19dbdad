"""`tinyfleet serve`: the service in one process."""

from pathlib import Path
from typing import Annotated

import typer

from service.cli.errors import ServiceStartError

Port = Annotated[int | None, typer.Option(min=0, max=65535, help="0 takes a free port.")]


def serve(
    *,
    data_dir: Annotated[
        Path | None, typer.Option(help="The service's folder, made by `tinyfleet init`.", file_okay=False)
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="Settings file, TOML.")] = None,
    host: Annotated[str | None, typer.Option(help="Address that all listeners bind.")] = None,
    operator_port: Port = None,
    device_port: Port = None,
    mqtt_port: Port = None,
) -> None:
    """Run the service: operator API, device API, MQTT gateway, worker. Options win over TINYFLEET_* and the file.

    Raises:
        ServiceStartError: a setting, key or database that the service needs is missing or wrong.
    """
    from service import config  # noqa: PLC0415 - the server's frameworks, which no other command needs
    from service.bootstrap import service  # noqa: PLC0415

    try:
        service.serve(
            config.load_settings(
                settings,
                data_dir=data_dir,
                host=host,
                operator_port=operator_port,
                device_port=device_port,
                mqtt_port=mqtt_port,
            )
        )
    except config.ServiceError as error:
        raise ServiceStartError(str(error)) from error
