"""`tinyfleet pki`: the key ceremony, and what is done with keys and certificates after it."""

import typer

app = typer.Typer(help="Keys and certificates: ceremony, renewal, status.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Keys and certificates: ceremony, renewal, status."""
