"""`tinyfleet init`: the usual key ceremony, and the first operator's login.

It is `tinyfleet pki ceremony` with a declaration that says no more than the catalog's name, the operator and the hosts.
"""

from pathlib import Path
from typing import Annotated

import typer

from pki.ceremony_declaration import usual_declaration
from service.cli.held_ceremony import DEFAULT_URL, FirstOperator, hold


def init(
    *,
    data_dir: Annotated[Path, typer.Option(help="Folder that gets operator/ and service/.")],
    hostname: Annotated[
        list[str] | None, typer.Option(help="DNS name or IP address of the service besides loopback; may be repeated.")
    ] = None,
    catalog: Annotated[str, typer.Option(help="Name of the catalog, the tenant.")] = "tinyfleet",
    operator: Annotated[str, typer.Option(help="Name of the first operator, an admin.")] = "admin",
    url: Annotated[str, typer.Option(help="Where the operator's CLI will find the service.")] = DEFAULT_URL,
    generate_passphrase: Annotated[
        bool,
        typer.Option("--generate-passphrase", help="Make a passphrase and keep it in operator/passphrase, mode 0600."),
    ] = False,
) -> None:
    """Make the offline keys, sign the service's online keys, and write the first operator's login."""
    hold(
        data_dir,
        usual_declaration(catalog, participants=[operator], hostnames=hostname or []),
        FirstOperator(operator, url),
        generate_passphrase=generate_passphrase,
        confirm=lambda _number, _count, _text: None,
    )
