"""`tinyfleet pki ceremony`: hold a declared key ceremony, or check one that was held."""

from pathlib import Path
from typing import Annotated

import typer

from pki.ceremony_check import CheckedCeremony, check_ceremony
from pki.ceremony_declaration import MAX_DECLARATION_BYTES, parse_declaration
from service.cli.errors import BadArgumentError, CliError
from service.cli.held_ceremony import DEFAULT_URL, FirstOperator, hold
from service.cli.offered import read_input
from service.cli.offline_keys import offline_keys
from service.cli.options import JsonOption
from service.cli.output import print_json, print_line, remark

DEFAULT_DATA_DIR = Path()
DataDirOption = Annotated[Path, typer.Option(help="Folder with operator/ and service/.", file_okay=False)]


class CeremonyDiffersError(CliError):
    """A ceremony's folders no longer hold what its transcripts tell of."""


def ceremony(
    subject: Annotated[
        Path | None, typer.Argument(metavar="FILE.yaml", help="The declaration; with --verify the data directory.")
    ] = None,
    *,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    verify: Annotated[bool, typer.Option("--verify", help="Check the ceremony that was held; change nothing.")] = False,
    with_keys: Annotated[
        bool, typer.Option("--with-keys", help="With --verify: open every key and compare it.")
    ] = False,
    root: Annotated[str, typer.Option(help="With --verify: SHA-256 of the root certificate, as written down.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Confirm no step.")] = False,
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Take over the certificates of a folder that an earlier version made.")
    ] = False,
    operator: Annotated[str, typer.Option(help="Name of the first operator, an admin.")] = "admin",
    url: Annotated[str, typer.Option(help="Where the operator's CLI will find the service.")] = DEFAULT_URL,
    generate_passphrase: Annotated[
        bool,
        typer.Option("--generate-passphrase", help="Make a passphrase and keep it in operator/passphrase, mode 0600."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Perform a declared key ceremony step by step and sign its transcript; or verify one."""
    if verify:
        _verify(subject or data_dir, with_keys=with_keys, root=root, as_json=as_json)
        return
    if subject is None:
        raise BadArgumentError("ceremony: expected FILE.yaml, the declaration, found none")
    hold(
        data_dir,
        parse_declaration(read_input(subject, max_bytes=MAX_DECLARATION_BYTES)),
        FirstOperator(operator, url),
        generate_passphrase=generate_passphrase,
        confirm=_show if yes else _ask,
        adopt=adopt,
    )


def _show(number: int, count: int, text: str) -> None:
    remark(f"{number}/{count} {text}")


def _ask(number: int, count: int, text: str) -> None:
    if typer.prompt(f"{number}/{count} {text}; type yes", err=True) != "yes":
        raise typer.Abort


def _verify(data_dir: Path, *, with_keys: bool, root: str, as_json: bool) -> None:
    checked = check_ceremony(data_dir, keys=offline_keys(data_dir / "operator") if with_keys else None)
    findings = list(checked.findings)
    if root and root.lower().replace(":", "") != checked.root_sha256:
        findings.insert(0, f"root certificate: expected SHA-256 {root}, found {checked.root_sha256}")
    if as_json:
        print_json(_facts(checked, findings))
    else:
        for finding in findings:
            print_line(finding)
    if findings:
        raise CeremonyDiffersError(
            f"ceremony: expected what was recorded and declared, found {len(findings)} differences"
        )
    if not as_json:
        _print_sound(checked)


def _facts(checked: CheckedCeremony, findings: list[str]) -> dict[str, object]:
    return {
        "root_sha256": checked.root_sha256,
        "transcripts": len(checked.transcripts),
        "certificates": checked.certificates,
        "participants": list(checked.transcripts[0].participants),
        "findings": findings,
    }


def _print_sound(checked: CheckedCeremony) -> None:
    first = checked.transcripts[0]
    print_line(f"held {first.began_at:%F %T} UTC by {', '.join(first.participants)}: {len(first.steps)} steps")
    print_line(f"{checked.certificates} certificates as declared, {len(checked.transcripts)} transcripts")
    print_line(f"root certificate, SHA-256, to be compared with the one written down: {checked.root_sha256}")
