"""`tinyfleet log`: the transparency log, for operators, for auditors and for witnesses.

`show` and `find` ask the service as an operator; `verify` asks nothing but the log's public tiles. Whom to believe is
what the Image root says that was verified last in the operator's working copy, or what the options name.
"""

import base64
import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from tuf.api.metadata import Metadata, Root

from pki.log_key import load_witness_key, make_witness_key
from pki.witness import CheckpointWitness, WitnessState
from protocol.errors import ProtocolError
from protocol.notes import SignatureKind, parse_vkey
from protocol.transparency import (
    LogEntry,
    LogPolicy,
    RootEntry,
    entry_bytes,
    entry_hash,
    parse_entry,
    parse_policy,
    policy_of,
    target_entry,
    verify_logged,
)
from service.cli import clock
from service.cli.client import JsonObject, connect, load_credential
from service.cli.errors import AnswerError, BadArgumentError, CliError
from service.cli.log_audit import Audit, Auditor
from service.cli.log_copy import LogCopy
from service.cli.log_require import release, require
from service.cli.log_source import LogSource
from service.cli.log_witness import only_one, serve_witness, witness_app
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import moment, print_facts, print_json, print_line, print_table, remark
from service.cli.working_copy import WorkingCopy

app = typer.Typer(help="The transparency log of images and roots.", no_args_is_help=True)

COPY_FOLDER = "log"
_DIGEST_DIGITS = 64
_PROGRESS_ENTRIES = 65_536
LogOption = Annotated[str, typer.Option("--log", help="Verifier key of the log; left out: what the Image root says.")]
WitnessOption = Annotated[list[str] | None, typer.Option("--witness", help="With --log: a witness's key; repeatable.")]
QuorumOption = Annotated[int, typer.Option(min=0, help="With --log: how many witnesses must have cosigned.")]


class NoPolicyError(CliError):
    """Nothing says whom to believe about the log."""


class NotLoggedError(CliError):
    """Something that is in force is not in the log."""


@app.command()
def show(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """Show how the log and its witnesses stand."""
    with connect(operator_dir) as client:
        answer = client.get("/log")
    if as_json:
        print_json(answer)
        return
    policy = answer["policy"]
    print_facts(
        {
            "origin": answer["origin"],
            "entries": answer["size"],
            "devices ask for": "nothing" if policy is None else _asked_for(policy),
        }
    )
    print_line(f"key {answer['key']}")
    print_line(answer["checkpoint"] or "no checkpoint yet")
    rows = [
        (each["name"], each["url"], each["size"], moment(each["at"]), each["problem"]) for each in answer["witnesses"]
    ]
    print_table("Witnesses", ("name", "url", "cosigned", "asked", "problem"), rows)


@app.command()
def find(
    digest: Annotated[str, typer.Argument(help="SHA-256 of an image package or a root.json, hex.")],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Find what the log says of an image or root, and verify that it says so."""
    if len(digest) != _DIGEST_DIGITS or not all(each in "0123456789abcdef" for each in digest):
        raise BadArgumentError(f"digest: expected 64 hex digits, found {digest[:80]!r}")
    with connect(operator_dir) as client:
        found = client.get(f"/log/entries/{digest}")["items"]
        policy = _root_policy(operator_dir) or _unproven(client.get("/log"))
    if not found:
        raise NotLoggedError(f"log: expected an entry of {digest[:16]}…, found none")
    rows = [_verified(each, policy, digest) for each in found]
    print_json(rows) if as_json else _print_entries(rows)


@app.command()
def verify(
    *,
    copy: Annotated[Path | None, typer.Option(help="Folder of the copy; left out: log/ of the operator's.")] = None,
    url: Annotated[str, typer.Option(help="Prefix of the log; left out: that of the operator's service.")] = "",
    ca: Annotated[Path | None, typer.Option(help="With --url: PEM certificates to trust.")] = None,
    log: LogOption = "",
    witness: WitnessOption = None,
    quorum: QuorumOption = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Take full bundles from the copy instead of asking for them again.")
    ] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Audit the log: whole, signed, cosigned, only added to, and with all that is in force here in it."""
    policy = _policy(operator_dir, log, witness or [], quorum)
    if not url:
        credential = load_credential(operator_dir)
        url, ca = f"{credential.url}/tlog", credential.ca
    source = LogSource(url, ca=ca)
    try:
        audit = Auditor(
            source, LogCopy(copy or operator_dir / COPY_FOLDER), policy, resume=resume, progress=_progress
        ).audit()
    finally:
        source.close()
    in_force = 0 if log else _check_in_force(operator_dir, audit)
    print_json(_facts(audit, in_force)) if as_json else _print_audit(audit, in_force)


app.command()(require)
app.command()(release)


@app.command("witness-key")
def witness_key(
    name: Annotated[str, typer.Argument(help="Unique name, such as witness.example/w1.")],
    *,
    out: Annotated[Path, typer.Option(help="New file for the key, mode 0600.")],
) -> None:
    """Make a witness's key and print its verifier key."""
    print_line(str(make_witness_key(out, name)))


@app.command()
def witness(
    *,
    key: Annotated[Path, typer.Option(help="File that `witness-key` made.", exists=True, dir_okay=False)],
    state: Annotated[Path, typer.Option(help="Folder of what has been cosigned; never restore it from a backup.")],
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes a free one.")],
    log: Annotated[list[str], typer.Option("--log", help="Verifier key of a log to watch; repeatable.")],
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM chain; left out: plain HTTP.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM key of --tls-certificate.")] = None,
) -> None:
    """Run a witness until stopped: it cosigns checkpoints of logs that only grow."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal():
        raise BadArgumentError(f"listen: expected HOST:PORT, found {listen[:80]!r}")
    logs = [parse_vkey(each, kind=SignatureKind.ED25519) for each in log]
    cosigner = load_witness_key(key)
    with only_one(state):
        judge = CheckpointWitness(cosigner, logs, WitnessState(state))
        remark(f"witness {cosigner.key}")
        serve_witness(witness_app(judge), host.strip("[]"), int(port), certificate=tls_certificate, key=tls_key)


def _asked_for(policy: JsonObject) -> str:
    return f"a proof, cosigned by {policy['quorum']} of {len(policy['witnesses'])} witnesses"


def _policy(operator_dir: Path, log: str, witnesses: list[str], quorum: int) -> LogPolicy:
    if log:
        return parse_policy({"origin": log.partition("+")[0], "log": log, "witnesses": witnesses, "quorum": quorum})
    found = _root_policy(operator_dir)
    if found is None:
        raise NoPolicyError(
            "log: expected an Image root that names the log, found none; say --log VKEY, which `log show` shows"
        )
    return found


def _root_policy(operator_dir: Path) -> LogPolicy | None:
    """Return what the newest root in the working copy says."""
    _, image_root = WorkingCopy(operator_dir).newest_roots()
    return policy_of(Metadata[Root].from_bytes(image_root).signed)


def _unproven(status: JsonObject) -> LogPolicy:
    """Where no root says whom to believe, the service's own word: its key, and no witness."""
    return parse_policy({"origin": status["origin"], "log": status["key"]})


def _check_in_force(operator_dir: Path, audit: Audit) -> int:
    """Check that every root and image in the working copy's metadata is logged; return how many there are."""
    copy = WorkingCopy(operator_dir)
    in_force = copy.latest(now=clock.now())
    listed = [each for role in (in_force.targets, *in_force.delegated.values()) for each in role.targets.values()]
    entries: list[LogEntry] = [target_entry(each) for each in listed if each.path.startswith("images/")]
    director_root, image_root = copy.newest_roots()
    entries += [_root_entry("director", director_root), _root_entry("image", image_root)]
    missing = [entry for entry in entries if entry_hash(entry) not in audit.leaves]
    if missing:
        raise NotLoggedError(
            f"log of {audit.verified.checkpoint.size} entries: expected all that is in force, "
            f"found {len(missing)} missing, such as {entry_bytes(missing[0]).decode()}"
        )
    return len(entries)


def _root_entry(repository: Literal["image", "director"], content: bytes) -> RootEntry:
    version = Metadata[Root].from_bytes(content).signed.version
    return RootEntry(repository=repository, version=version, sha256=hashlib.sha256(content).hexdigest())


def _verified(found: JsonObject, policy: LogPolicy, digest: str) -> JsonObject:
    """Check one entry that the service found; nothing but its number and proof is the service's word."""
    try:
        entry = parse_entry(base64.b64decode(found["entry"], validate=True))
        proof = found["proof"]
        verified = None if proof is None else verify_logged(entry, proof.encode(), policy)
    except (ProtocolError, ValueError, KeyError, TypeError) as error:
        raise AnswerError(f"log: expected an entry of {digest[:16]}… and its proof, found: {error}") from error
    if entry.sha256 != digest:
        raise AnswerError(f"log: expected an entry of {digest[:16]}…, found one of {entry.sha256[:16]}…")
    return {
        "number": found["number"],
        "entry": entry.model_dump(mode="json"),
        "log_size": None if verified is None else verified.checkpoint.size,
        "witnesses": {} if verified is None else {name: _time(at) for name, at in verified.witnessed.items()},
    }


def _print_entries(rows: list[JsonObject]) -> None:
    for row in rows:
        proven = "no checkpoint covers it yet" if row["log_size"] is None else f"proven, log of {row['log_size']}"
        witnesses = ", ".join(f"{name} at {at}" for name, at in row["witnesses"].items()) or "none"
        print_facts({"number": row["number"], **row["entry"], "proof": proven, "witnesses": witnesses})


def _facts(audit: Audit, in_force: int) -> JsonObject:
    head = audit.verified.checkpoint
    return {
        "origin": head.origin,
        "size": head.size,
        "root": head.root.hex(),
        "verified_before": audit.before,
        "images": audit.images,
        "roots": audit.roots,
        "in_force": in_force,
        "witnesses": {name: _time(at) for name, at in audit.verified.witnessed.items()},
    }


def _print_audit(audit: Audit, in_force: int) -> None:
    head, witnessed = audit.verified.checkpoint, audit.verified.witnessed
    print_line(
        f"{head.origin}: {head.size} entries ({audit.images} images, {audit.roots} roots), {audit.before} the last time"
    )
    print_line(f"root {head.root.hex()}, which every entry leads to; only added to since the last time")
    print_line("cosigned by " + (", ".join(f"{name} at {_time(at)}" for name, at in witnessed.items()) or "nobody"))
    if in_force:
        print_line(f"all {in_force} images and roots in force here are logged")


def _time(posix_seconds: int) -> str:
    try:
        return datetime.fromtimestamp(posix_seconds, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return str(posix_seconds)


def _progress(done: int, whole: int) -> None:
    if done % _PROGRESS_ENTRIES == 0:
        remark(f"{done} of {whole} entries")
