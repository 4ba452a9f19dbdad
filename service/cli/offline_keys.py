"""The operator's offline keys: files in `keys/` of the operator's folder, and keys in the tokens of its keys.toml.

The passphrase of the files is looked for in the file `passphrase` of that folder, then in TINYFLEET_PASSPHRASE, then
asked for.
"""

import os
from pathlib import Path

import typer

from pki.errors import KeyMissingError, TokenError
from pki.keystore import passphrase_source
from pki.public_keys import public_half
from pki.stores import KeyStores, open_keys
from protocol.signing import tuf_key
from service.cli.output import remark

PASSPHRASE_FILE = "passphrase"  # noqa: S105 - the file's name


def offline_keys(operator_dir: Path, *, is_new: bool = False) -> KeyStores:
    """Return the key stores of an operator's folder.

    Args:
        operator_dir: the operator's folder.
        is_new: keys are being made, so a passphrase that is asked for is asked for twice.

    Raises:
        StoreConfigError: keys.toml breaks a rule.
    """
    passphrase = passphrase_source(
        file=operator_dir / PASSPHRASE_FILE,
        environment=os.environ,
        prompt=lambda: _ask(is_new=is_new),
    )
    return open_keys(operator_dir, passphrase=passphrase)


def own_key_ids(keys: KeyStores) -> dict[str, str]:
    """Return the names of one's own keys that may sign update metadata, by their TUF key ids.

    Asks for the passphrase where the public half of a key is not noted yet. A key whose token is not here is left out:
    the root's is in a safe while releases go on.

    Raises:
        KeyStoreError: a key's file cannot be used.
    """
    found: dict[str, str] = {}
    for name in keys.metadata_names():
        try:
            found[tuf_key(public_half(keys, name)).keyid] = name
        except KeyMissingError:
            continue
        except TokenError as error:
            remark(f"key {name} is left out: {error}")
    return found


def _ask(*, is_new: bool) -> str:
    answer: str = typer.prompt("Passphrase of the offline keys", hide_input=True, confirmation_prompt=is_new, err=True)
    return answer
