"""`tinyfleet metadata key|keys`: make keys that sign update metadata, and change whose signatures a role needs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec

from pki.online import METADATA_ROLES, request_metadata_key, requested_key
from pki.public_keys import load_public_key, note_public_half, public_half
from pki.roles import OnlineKey, check_own_key
from pki.stores import KeyStores
from protocol.signing import tuf_key
from service.cli.errors import BadArgumentError
from service.cli.metadata_drafts import KeyChange, draft_keys
from service.cli.metadata_files import session_of
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, ProposeOption, YesOption
from service.cli.output import print_facts, print_json
from service.cli.settling import Consent, report, settle

MIN_KEY_ID_DIGITS = 8

key_app = typer.Typer(help="Keys of your own.", no_args_is_help=True)
keys_app = typer.Typer(help="Whose signatures a role needs.", no_args_is_help=True)

RoleArgument = Annotated[
    str,
    typer.Argument(
        help="root, targets, snapshot or timestamp of the Image repository; director-root or director (the online key) "
        "of the Director; bins; or a delegated role."
    ),
]
DEFAULT_SERVICE_DIR = Path("service")
KeysOption = Annotated[
    list[str],
    typer.Option("--key", help="File of a public key or of a CSR, or the name of your own key; may be repeated."),
]
ThresholdOption = Annotated[int | None, typer.Option(min=1, help="How many of the keys must sign; else as before.")]


@key_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What you call the key.")],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Make a P-256 key in your key store, or in the token that keys.toml names for it; others need its public half."""
    check_own_key(name)
    keys = offline_keys(operator_dir, is_new=True)
    public_key = keys.generate(name).public_key
    path = note_public_half(keys, name, public_key)
    facts = {"key": name, "store": keys.store_of(name), "key_id": tuf_key(public_key).keyid, "public_key": str(path)}
    print_json(facts) if as_json else print_facts(facts)


@key_app.command()
def request(
    role: Annotated[str, typer.Argument(help=f"Whose next key: {', '.join(METADATA_ROLES)}.")],
    *,
    service_dir: Annotated[Path, typer.Option(help="The service's folder.", file_okay=False)] = DEFAULT_SERVICE_DIR,
    as_json: JsonOption = False,
) -> None:
    """On the service's machine: make the next key of an online role; the operator gets its CSR for `keys rotate`."""
    if role not in set(METADATA_ROLES):
        raise BadArgumentError(f"role: expected one of {', '.join(METADATA_ROLES)}, found {role[:40]!r}")
    name = request_metadata_key(service_dir, OnlineKey(role))
    key_id = tuf_key(requested_key(service_dir, name)).keyid
    facts = {"key": name, "key_id": key_id, "request": str(service_dir / "csr" / f"{name}.pem")}
    print_json(facts) if as_json else print_facts(facts)


@keys_app.command()
def add(
    role: RoleArgument,
    *,
    keys: KeysOption,
    threshold: ThresholdOption = None,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Let more keys sign for a role."""
    consent = Consent(yes=yes, propose=propose, quiet=as_json)
    _change(role, operator_dir, consent, added=keys, threshold=threshold)


@keys_app.command()
def remove(
    role: RoleArgument,
    *,
    keys: Annotated[list[str], typer.Option("--key", help="As for `add`, or the first 8 digits or more of a key id.")],
    threshold: ThresholdOption = None,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Have keys sign no longer for a role: lost, stolen, or of somebody who left."""
    consent = Consent(yes=yes, propose=propose, quiet=as_json)
    _change(role, operator_dir, consent, removed=keys, threshold=threshold)


@keys_app.command()
def rotate(
    role: RoleArgument,
    *,
    keys: KeysOption,
    threshold: ThresholdOption = None,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Have these keys sign for a role, and no others."""
    consent = Consent(yes=yes, propose=propose, quiet=as_json)
    _change(role, operator_dir, consent, added=keys, only=True, threshold=threshold)


def public_keys(keys: KeyStores, named: Sequence[str]) -> list[ec.EllipticCurvePublicKey]:
    """Return public keys by file, or by the name of one's own.

    Raises:
        BadArgumentError: one is named twice.
        KeyStoreError: a file holds something else, or there is no such key.
    """
    found = [_public_key(keys, each) for each in named]
    if len({tuf_key(key).keyid for key in found}) < len(found):
        raise BadArgumentError("--key: expected different keys, found one of them twice")
    return found


def _public_key(keys: KeyStores, named: str) -> ec.EllipticCurvePublicKey:
    path = Path(named)
    return load_public_key(path) if path.exists() or named not in keys.metadata_names() else public_half(keys, named)


def _change(
    role: str,
    operator_dir: Path,
    consent: Consent,
    *,
    added: Sequence[str] = (),
    removed: Sequence[str] = (),
    only: bool = False,
    threshold: int | None,
) -> None:
    with session_of(operator_dir) as session:
        change = KeyChange(
            added=public_keys(session.keys, added),
            removed=[_key_id(session.keys, each) for each in removed],
            only=only,
            threshold=threshold,
        )
        answer = settle(session, draft_keys(session, role, change), consent)
    report(answer, as_json=consent.quiet)


def _key_id(keys: KeyStores, named: str) -> str:
    is_key_id = len(named) >= MIN_KEY_ID_DIGITS and set(named) <= set("0123456789abcdef") and not Path(named).exists()
    return named if is_key_id else tuf_key(_public_key(keys, named)).keyid
