"""`tinyfleet metadata`: who signs the update metadata of both repositories, and until when it is valid.

A command that changes something drafts it on the metadata in force, shows it, and signs with the operator's own keys.
Where these are enough, it is in force at once; else a proposal is written for others to sign.
"""

from collections.abc import Iterator
from typing import Annotated

import typer

from pki.errors import MetadataVersionError, RepositoryError
from service.cli import metadata_delegations, metadata_files, metadata_keys, metadata_restore
from service.cli.client import JsonObject
from service.cli.metadata_drafts import draft_renewal
from service.cli.metadata_files import session_of
from service.cli.offline_keys import own_key_ids
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, ProposeOption, YesOption
from service.cli.output import moment, print_json, print_table, remark, short
from service.cli.settling import Consent, Session, report, settle
from service.cli.working_copy import WorkingCopyError

app = typer.Typer(help="Who signs update metadata: keys, thresholds, delegations, renewals.", no_args_is_help=True)
app.add_typer(metadata_keys.key_app, name="key")
app.add_typer(metadata_keys.keys_app, name="keys")
app.add_typer(metadata_delegations.patches_app, name="patches")
app.command()(metadata_delegations.delegate)
app.command()(metadata_delegations.undelegate)
app.command()(metadata_delegations.bins)
app.command()(metadata_files.show)
app.command()(metadata_files.sign)
app.command()(metadata_files.publish)


@app.command()
def status(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """List the roles of both repositories: version, expiry, threshold, keys, and which of them are yours.

    What people sign is verified on the way, and what does not verify is a warning; the list itself is the service's
    word.
    """
    with session_of(operator_dir) as session:
        for finding in _findings(session):
            remark(finding)
        roles = [_with_own(role, own_key_ids(session.keys)) for role in session.client.get_list("/repository")]
    if as_json:
        print_json(roles)
        return
    columns = ("role", "version", "expires", "threshold", "keys", "yours")
    print_table("Update metadata", columns, [_row(role) for role in roles])
    for role in roles:
        for warning in role["warnings"]:
            remark(f"{role['repository']} {role['role']}: {warning}")


@app.command()
def restore(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """Give a service that was restored from a backup what people have signed since, from your working copy."""
    with session_of(operator_dir) as session:
        restored = metadata_restore.restore(session)
    if as_json:
        print_json(restored)
    else:
        remark(f"in force again: {', '.join(restored) or 'nothing was missing'}")


@app.command()
def renew(
    role: Annotated[str, typer.Argument(help="root, director-root, targets, bins, or a delegated role.")],
    *,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Sign the next version of a role with a later expiry, and nothing else changed."""
    with session_of(operator_dir) as session:
        answer = settle(session, draft_renewal(session, role), Consent(yes=yes, propose=propose, quiet=as_json))
    report(answer, as_json=as_json)


def _findings(session: Session) -> Iterator[str]:
    """Yield what does not verify of what is in force."""
    for fetch in (session.working_copy.fetch, session.working_copy.fetch_director_root):
        try:
            fetch(session.client, now=session.now, expired=True)
        except MetadataVersionError as error:
            yield f"{error}; if the service was restored from a backup: `tinyfleet metadata restore`"
        except (RepositoryError, WorkingCopyError) as error:
            yield f"not verified: {error}"


def _with_own(role: JsonObject, own: dict[str, str]) -> JsonObject:
    return role | {"own_keys": [own[key] for key in role["key_ids"] if key in own]}


def _row(role: JsonObject) -> tuple[object, ...]:
    name = f"{role['repository']} {role['role']}"
    keys = [short(key) for key in role["key_ids"]]
    return name, role["version"], moment(role["expires_at"]), role["threshold"], keys, role["own_keys"]
