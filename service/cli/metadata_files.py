"""`tinyfleet metadata show|sign|publish`: proposals that people pass to one another as files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from service.cli import clock
from service.cli.client import connect
from service.cli.errors import BadArgumentError
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, YesOption
from service.cli.output import print_facts, print_json, print_line, remark
from service.cli.proposal_files import Opened, open_offline, open_proposal, publish_file, sign_file
from service.cli.settling import Session, missing_text, proposal_facts, show_review
from service.cli.working_copy import WorkingCopy

FileArgument = Annotated[Path, typer.Argument(help="The proposal's file.")]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Verify against the working copy in your folder; ask no service.")
]


@contextmanager
def session_of(operator_dir: Path) -> Iterator[Session]:
    """Open what a command that changes metadata works with.

    Raises:
        CredentialError: no usable login.
        StoreConfigError: keys.toml breaks a rule.
    """
    with connect(operator_dir) as client:
        yield Session(client, WorkingCopy(operator_dir), offline_keys(operator_dir), clock.now())


def show(
    file: FileArgument,
    *,
    offline: OfflineOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Verify a proposal against the metadata in force: what it changes, who has signed, who is missing."""
    review = _opened(operator_dir, file, offline=offline).review
    if as_json:
        print_json(proposal_facts(file, review) | {"versions": dict(review.versions), "added": dict(review.added)})
        return
    print_line(f"its maker says: {review.proposal.purpose}")
    show_review(review)
    print_line(f"signatures missing: {missing_text(review)}")


def sign(
    file: FileArgument,
    *,
    key: Annotated[str | None, typer.Option(help="Name of your key; else as many of yours as are missing.")] = None,
    offline: OfflineOption = False,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Verify a proposal, show what it changes, and add your signature to its file."""
    opened = _opened(operator_dir, file, offline=offline)
    show_review(opened.review, quiet=as_json)
    if not yes and not typer.confirm("Sign this?", err=True):
        raise BadArgumentError("expected a yes, found a no; nothing changed")
    review = sign_file(offline_keys(operator_dir), file, opened, key=key, now=clock.now())
    if as_json:
        print_json(proposal_facts(file, review))
        return
    remark(f"{file}: signatures missing: {missing_text(review)}")


def publish(
    file: FileArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False
) -> None:
    """Bring a proposal into force that enough have signed."""
    with session_of(operator_dir) as session:
        answer = publish_file(session, open_proposal(session, file))
    print_json(answer) if as_json else print_facts(answer)


def _opened(operator_dir: Path, file: Path, *, offline: bool) -> Opened:
    if offline:
        return open_offline(WorkingCopy(operator_dir), file, now=clock.now())
    with session_of(operator_dir) as session:
        return open_proposal(session, file)
