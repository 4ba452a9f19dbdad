"""`tinyfleet pki rollover issuing-ca`: give the service's issuing CA a new key while devices stay connected.

    request     the service makes the key of the next generation; its CSR comes to the operator's folder
    sign        the offline root signs it; the service trusts it from then on, beside the old one
    activate    the service issues by it
    retire      the old one is trusted no longer, once nothing that it issued is valid any more

Where several processes serve one catalog, copy the service's folder between `sign` and `activate`, and between
`activate` and `retire`: each process follows its own folder.
"""

import re
from pathlib import Path
from typing import Annotated

import typer

from pki.authority import chain_pem
from pki.ceremony_renewal import tell_of_issuing_ca
from pki.chains import load_chain
from pki.files import PUBLIC_MODE, replace_file
from pki.issuance import OPERATOR_LOG_FILE, IssuanceKind, append_to_file, facts_of
from pki.online import load_certificate
from pki.roles import OfflineKey
from pki.rollover import GenerationState, key_role, sign_generation
from service.cli import clock
from service.cli.client import ApiClient, JsonObject, connect
from service.cli.errors import AnswerError, CliError
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import moment, print_json, print_table, remark

app = typer.Typer(help="Give an authority a new key, with overlap.", no_args_is_help=True)
issuing_ca = typer.Typer(help="The authority that issues devices' operational certificates.", no_args_is_help=True)
app.add_typer(issuing_ca, name="issuing-ca")

_PATH = "/pki/issuing-cas"
_CSR_FILE = re.compile(r"issuing-ca-([0-9]{1,4})\.pem")
GenerationArgument = Annotated[int, typer.Argument(min=1, max=9999, help="Number of the generation.")]


class NothingToSignError(CliError):
    """No request of the issuing CA is in the operator's folder."""


@issuing_ca.command()
def request(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Let the service make the next generation's key, and fetch the CSR."""
    with connect(operator_dir) as client:
        active = next(one for one in _generations(client) if one["state"] == GenerationState.ACTIVE)
        requested = client.post(_PATH)
    number = int(requested["number"])
    folder = operator_dir / "csr"
    folder.mkdir(exist_ok=True)
    replace_file(folder / f"{key_role(number)}-replaces.pem", active["certificate"].encode(), mode=PUBLIC_MODE)
    replace_file(folder / f"{key_role(number)}.pem", requested["csr"].encode(), mode=PUBLIC_MODE)
    remark(f"generation {number}: requested; sign {folder / key_role(number)}.pem by `rollover issuing-ca sign`")


@issuing_ca.command()
def sign(
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Sign only; `activate` takes it to the service.")] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Sign the request by the offline root, and let the service trust the new generation."""
    number = _last_request(operator_dir)
    path = operator_dir / "certificates" / f"{key_role(number)}.pem"
    if not path.exists():
        _sign(operator_dir, number, path)
    tell_of_issuing_ca(operator_dir, key_role(number), keys=offline_keys(operator_dir), now=clock.now())
    remark(f"generation {number}: signed, {path}")
    if not offline:
        with connect(operator_dir) as client:
            _take_to_service(client, number, path)


@issuing_ca.command()
def activate(number: GenerationArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Let the service issue by a generation that the root has signed."""
    with connect(operator_dir) as client:
        _take_to_service(client, number, operator_dir / "certificates" / f"{key_role(number)}.pem")
        client.post(f"{_PATH}/{number}/activate")
    remark(f"generation {number}: issues from now on; the one before stays trusted until it is retired")


@issuing_ca.command()
def retire(number: GenerationArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Trust a superseded generation no longer; refused while certificates that it issued are valid."""
    with connect(operator_dir) as client:
        client.post(f"{_PATH}/{number}/retire")
    remark(f"generation {number}: retired; its key on the service's side serves nothing any more, destroy it")


@issuing_ca.command()
def status(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """Show the generations, and until when each has certificates in use."""
    with connect(operator_dir) as client:
        generations = _generations(client)
    if as_json:
        print_json(generations)
        return
    rows = (
        (
            one["number"],
            one["state"],
            moment(one["not_after"]),
            one["certificates_issued"],
            moment(one["last_not_after"]),
        )
        for one in generations
    )
    print_table("Issuing CA", ("no.", "state", "ends", "issued", "last of them ends"), rows)


def _sign(operator_dir: Path, number: int, path: Path) -> None:
    csr = operator_dir / "csr" / f"{key_role(number)}.pem"
    root = load_certificate(operator_dir / "certificates" / "root.pem")
    now = clock.now()
    certificate = sign_generation(
        csr.read_bytes(),
        number,
        predecessor=load_chain(csr.with_name(f"{key_role(number)}-replaces.pem").read_bytes())[0],
        root=root,
        root_signer=offline_keys(operator_dir).load(OfflineKey.ROOT),
        now=now,
    )
    facts = facts_of(certificate, kind=IssuanceKind.AUTHORITY, issuer=root, at=now)
    append_to_file(operator_dir / OPERATOR_LOG_FILE, [facts])
    replace_file(path, chain_pem([certificate]), mode=PUBLIC_MODE)


def _take_to_service(client: ApiClient, number: int, path: Path) -> None:
    """Give the service a signed generation, unless it has it."""
    states = {one["number"]: one["state"] for one in _generations(client)}
    if states.get(number) == GenerationState.REQUESTED:
        client.put(f"{_PATH}/{number}/certificate", {"certificate": path.read_text("ascii")})
        remark(f"generation {number}: trusted by the service")


def _generations(client: ApiClient) -> list[JsonObject]:
    found = client.get(_PATH).get("items")
    if not isinstance(found, list):
        raise AnswerError(f"{_PATH}: expected generations, found none")
    return found


def _last_request(operator_dir: Path) -> int:
    folder = operator_dir / "csr"
    names = [found for path in folder.glob("*.pem") if (found := _CSR_FILE.fullmatch(path.name))]
    if not names:
        raise NothingToSignError(f"{folder}: expected the service's request, found none; run `rollover … request`")
    return max(int(found[1]) for found in names)
