"""`tinyfleet pki rollover issuing-ca`: give the service's issuing CA a new key while devices stay connected.

    request     the service makes the key of the next generation; its CSR comes to the operator's folder
    sign        the offline root signs it; the service trusts it from then on, beside the old one
    activate    the service issues by it
    retire      the old one is trusted no longer, once nothing that it issued is valid any more

Where somebody else has the old key, `sign --compromised` has the new one not vouch for it, and after `activate`,
`retire --compromised` waits for nothing: connections by the old key's certificates end, and devices attest again.

Where several processes serve one catalog, copy the service's folder between `sign` and `activate`, and between
`activate` and `retire`: each process follows its own folder.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from pki.authority import chain_pem
from pki.ceremony_renewal import known_issuing_cas, tell_of_issuing_ca
from pki.chains import load_chain
from pki.csr import verify_service_csr
from pki.files import PUBLIC_MODE, replace_file
from pki.issuance import OPERATOR_LOG_FILE, IssuanceKind, append_to_file, facts_of
from pki.online import load_certificate
from pki.roles import OfflineKey
from pki.rollover import GenerationState, key_role, sign_generation
from service.cli import clock
from service.cli.client import ApiClient, connect
from service.cli.errors import AnswerError, CliError
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import moment, print_json, print_table, remark

app = typer.Typer(help="Give an authority a new key, with overlap.", no_args_is_help=True)
issuing_ca = typer.Typer(help="The authority that issues devices' operational certificates.", no_args_is_help=True)
app.add_typer(issuing_ca, name="issuing-ca")

_PATH = "/pki/issuing-cas"
_CSR_FILE = re.compile(r"issuing-ca-([0-9]{1,4})\.pem")
CompromisedOption = Annotated[
    bool, typer.Option("--compromised", help="Somebody else has the old key: the new one signs no certificate for it.")
]
GenerationArgument = Annotated[int, typer.Argument(min=1, max=9999, help="Number of the generation.")]


class NothingToSignError(CliError):
    """No request of the issuing CA is in the operator's folder."""


class AlreadySignedError(CliError):
    """The root has signed another key as the generation of this number."""


class _Generation(BaseModel):
    number: int
    state: GenerationState
    certificate: str | None
    cross_certificates: list[str]
    not_after: str | None
    certificates_issued: int
    last_not_after: str | None


class _Requested(BaseModel):
    number: Annotated[int, Field(ge=1, le=9999)]
    csr: str


_GENERATIONS = TypeAdapter(list[_Generation])


@issuing_ca.command()
def request(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Let the service make the next generation's key, and fetch the CSR."""
    with connect(operator_dir) as client:
        active = _active_certificate(_generations(client))
        requested = _requested(client)
    number = requested.number
    folder = operator_dir / "csr"
    folder.mkdir(exist_ok=True)
    path = folder / f"{key_role(number)}.pem"
    if _certificate_path(operator_dir, number).exists():
        _refuse_other_csr(path, requested.csr.encode())
    else:
        replace_file(folder / f"{key_role(number)}-replaces.pem", active.encode(), mode=PUBLIC_MODE)
        replace_file(path, requested.csr.encode(), mode=PUBLIC_MODE)
    remark(f"generation {number}: requested; sign {path} by `rollover issuing-ca sign`")


@issuing_ca.command()
def sign(
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Sign only; `activate` takes it to the service.")] = False,
    compromised: CompromisedOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Sign the request by the offline root, and let the service trust the new generation."""
    number = _last_request(operator_dir)
    path = _certificate_path(operator_dir, number)
    if not path.exists():
        _sign(operator_dir, number, path)
    _refuse_other_key(operator_dir, number, path)
    tell_of_issuing_ca(operator_dir, key_role(number), keys=offline_keys(operator_dir), now=clock.now())
    remark(f"generation {number}: signed, {path}")
    if not offline:
        with connect(operator_dir) as client:
            _take_to_service(client, number, path, compromised=compromised)


@issuing_ca.command()
def activate(
    number: GenerationArgument,
    *,
    compromised: CompromisedOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Let the service issue by a generation that the root has signed."""
    with connect(operator_dir) as client:
        _take_to_service(client, number, _certificate_path(operator_dir, number), compromised=compromised)
        client.post(f"{_PATH}/{number}/activate")
    remark(f"generation {number}: issues from now on; the one before stays trusted until it is retired")


@issuing_ca.command()
def retire(
    number: GenerationArgument,
    *,
    compromised: Annotated[
        bool, typer.Option("--compromised", help="Although its certificates are valid: their devices attest again.")
    ] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Trust a superseded generation no longer; refused while certificates that it issued are valid."""
    with connect(operator_dir) as client:
        client.post(f"{_PATH}/{number}/retire", {"compromised": compromised})
    remark(f"generation {number}: retired; its key on the service's side serves nothing any more, destroy it")


@issuing_ca.command()
def status(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """Show the generations, and until when each has certificates in use."""
    with connect(operator_dir) as client:
        generations = _generations(client)
    if as_json:
        print_json([one.model_dump() for one in generations])
        return
    rows = (
        (one.number, one.state, moment(one.not_after), one.certificates_issued, moment(one.last_not_after))
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
        unverified_predecessor=load_chain(csr.with_name(f"{key_role(number)}-replaces.pem").read_bytes())[0],
        known=known_issuing_cas(operator_dir),
        root=root,
        root_signer=offline_keys(operator_dir).load(OfflineKey.ROOT),
        now=now,
    )
    facts = facts_of(certificate, kind=IssuanceKind.AUTHORITY, issuer=root, at=now)
    append_to_file(operator_dir / OPERATOR_LOG_FILE, [facts])
    replace_file(path, chain_pem([certificate]), mode=PUBLIC_MODE)


def _take_to_service(client: ApiClient, number: int, path: Path, *, compromised: bool) -> None:
    """Give the service a signed generation, unless it has it."""
    states = {one.number: one.state for one in _generations(client)}
    if states.get(number) == GenerationState.REQUESTED:
        body = {"certificate": path.read_text("ascii"), "compromised": compromised}
        client.put(f"{_PATH}/{number}/certificate", body)
        remark(f"generation {number}: trusted by the service")


def _refuse_other_csr(path: Path, unverified_csr: bytes) -> None:
    """Keep the request whose certificate the transcripts tell of."""
    if not path.exists() or path.read_bytes() != unverified_csr:
        raise AlreadySignedError(
            f"{path}: expected the request that the root has signed, found another from the service; "
            "give the service its key of this generation back"
        )


def _refuse_other_key(operator_dir: Path, number: int, path: Path) -> None:
    csr = operator_dir / "csr" / f"{key_role(number)}.pem"
    requested = verify_service_csr(csr.read_bytes(), key_role(number))
    if load_certificate(path).public_key() != requested:
        raise AlreadySignedError(f"{path}: expected the certificate of the key in {csr}, found that of another key")


def _generations(client: ApiClient) -> list[_Generation]:
    unverified = client.get(_PATH)
    try:
        return _GENERATIONS.validate_python(unverified.get("items"))
    except ValidationError as error:
        raise AnswerError(f"{_PATH}: expected generations, found {error.errors()[0]['msg']}") from error


def _active_certificate(generations: Sequence[_Generation]) -> str:
    active = [one.certificate for one in generations if one.state is GenerationState.ACTIVE and one.certificate]
    if len(active) != 1:
        raise AnswerError(f"{_PATH}: expected one active generation with its certificate, found {len(active)}")
    return active[0]


def _requested(client: ApiClient) -> _Requested:
    try:
        return _Requested.model_validate(client.post(_PATH))
    except ValidationError as error:
        raise AnswerError(f"{_PATH}: expected a number and a CSR, found {error.errors()[0]['msg']}") from error


def _certificate_path(operator_dir: Path, number: int) -> Path:
    return operator_dir / "certificates" / f"{key_role(number)}.pem"


def _last_request(operator_dir: Path) -> int:
    folder = operator_dir / "csr"
    names = [found for path in folder.glob("*.pem") if (found := _CSR_FILE.fullmatch(path.name))]
    if not names:
        raise NothingToSignError(f"{folder}: expected the service's request, found none; run `rollover … request`")
    return max(int(found[1]) for found in names)
