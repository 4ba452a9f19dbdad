"""`tinyfleet pki`: the key ceremony, and what is done with keys and certificates after it."""

import typer

from service.cli import pki_ceremony, pki_certificates, pki_keys, pki_log, pki_revoke, pki_rollover

app = typer.Typer(help="Keys and certificates: ceremony, renewal, status.", no_args_is_help=True)
app.command()(pki_ceremony.ceremony)
app.command()(pki_certificates.request)
app.command()(pki_certificates.issue)
app.command()(pki_certificates.status)
app.command()(pki_revoke.revoke)
app.add_typer(pki_revoke.crl_app, name="crl")
app.add_typer(pki_keys.app, name="keys")
app.add_typer(pki_log.app, name="log")
app.add_typer(pki_rollover.app, name="rollover")
