"""`tinyfleet pki keys`: where the private keys are, and moving one from its file into a token.

keys.toml of an operator's or a service's folder says which key belongs in which store (`pki.stores`). A key in a token
cannot be exported: only the token signs with it.
"""

import hashlib
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki.key_inventory import KeyEntry, KeyState, import_key, list_keys, list_own_keys, log_key_entry
from pki.online import online_keys
from pki.roles import OfflineKey, OnlineKey
from pki.stores import CONFIG_FILE, KeyStores
from service.cli.errors import CliError
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_json, print_table, remark, short

app = typer.Typer(
    help="Where the private keys are: files and PKCS#11 tokens. A key in a token cannot be exported.",
    no_args_is_help=True,
)

ServiceDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The service's folder, in the place of the operator's.", file_okay=False),
]


class UnusableKeyError(CliError):
    """A key that is there does not sign."""


@app.command("list")
def list_(
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    data_dir: ServiceDirOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="Have each key sign; asks for the passphrase.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the keys of a folder: role, store, place, public key, and whether it can be used.

    Raises:
        UnusableKeyError: with --verify, a key that is there does not sign.
    """
    stores, roles = _opened(operator_dir, data_dir)
    entries = [*list_keys(stores, roles, prove=verify), *list_own_keys(stores, prove=verify)]
    if data_dir is not None:
        entries.append(log_key_entry(data_dir, prove=verify))
    if as_json:
        print_json([_facts(entry) for entry in entries])
    else:
        columns = ("role", "store", "where", "public key", "state")
        rows = [(e.role, e.store, e.where, short(_fingerprint(e.public_key)) or None, e.state) for e in entries]
        print_table("Keys", columns, rows)
        for entry in entries:
            _remark(entry)
    if verify and (unusable := [entry.role for entry in entries if entry.state is KeyState.UNUSABLE]):
        raise UnusableKeyError(f"keys: expected that every key signs, found that these do not: {', '.join(unusable)}")


@app.command("import")
def import_(
    role: Annotated[str, typer.Argument(help="Role of the key, as `list` shows it.")],
    *,
    store: Annotated[str, typer.Option(help=f"The token's store in {CONFIG_FILE}.")],
    delete_file: Annotated[
        bool, typer.Option("--delete-file", help=f"Remove the file, if {CONFIG_FILE} names the token for this role.")
    ] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    data_dir: ServiceDirOption = None,
) -> None:
    """Copy a key from its file into a token; it cannot be read there again, so keep a copy that you can restore."""
    stores, _ = _opened(operator_dir, data_dir)
    signer = import_key(stores, role, store, delete_file=delete_file)
    remark(f"{role}: in {store}, public key SHA-256 {_fingerprint(signer.public_key)}")
    if stores.store_of(role) != store:
        remark(f'it is used from its file until {CONFIG_FILE} has, under [roles]: {role} = "{store}"')
    elif not delete_file:
        remark(f"its file is still there: {stores.files.path(role)}; --delete-file removes it")


def _opened(operator_dir: Path, data_dir: Path | None) -> tuple[KeyStores, type[StrEnum]]:
    if data_dir is None:
        return offline_keys(operator_dir), OfflineKey
    return online_keys(data_dir), OnlineKey


def _facts(entry: KeyEntry) -> dict[str, object]:
    return {
        "role": entry.role,
        "store": entry.store,
        "where": entry.where,
        "state": entry.state,
        "public_key_sha256": _fingerprint(entry.public_key) or None,
        "problem": entry.problem or None,
        "file_left": entry.leaves_file,
    }


def _remark(entry: KeyEntry) -> None:
    if entry.problem:
        remark(f"{entry.role}: {entry.problem}")
    if entry.leaves_file:
        remark(f"{entry.role}: belongs in {entry.where}, and a file of it is still in keys/")


def _fingerprint(public_key: ec.EllipticCurvePublicKey | Ed25519PublicKey | None) -> str:
    """SHA-256 of the DER SubjectPublicKeyInfo, hex."""
    if public_key is None:
        return ""
    return hashlib.sha256(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
