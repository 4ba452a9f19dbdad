"""The operator's offline keys: `keys/` of the operator's folder, and where their passphrase comes from.

The passphrase is looked for in the file `passphrase` of that folder, then in TINYFLEET_PASSPHRASE, then asked for.
"""

import os
from pathlib import Path

import typer

from pki.keystore import FileKeyStore, passphrase_source

PASSPHRASE_FILE = "passphrase"  # noqa: S105 - the file's name


def offline_keys(operator_dir: Path, *, is_new: bool = False) -> FileKeyStore:
    """Return the key store of an operator's folder.

    Args:
        operator_dir: the operator's folder.
        is_new: keys are being made, so a passphrase that is asked for is asked for twice.
    """
    passphrase = passphrase_source(
        file=operator_dir / PASSPHRASE_FILE,
        environment=os.environ,
        prompt=lambda: _ask(is_new=is_new),
    )
    return FileKeyStore(operator_dir / "keys", passphrase=passphrase)


def _ask(*, is_new: bool) -> str:
    answer: str = typer.prompt("Passphrase of the offline keys", hide_input=True, confirmation_prompt=is_new, err=True)
    return answer
