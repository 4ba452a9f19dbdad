"""`tinyfleet metadata`: who signs the update metadata of both repositories, and until when it is valid.

A command that changes something drafts it on the metadata in force, shows it, and signs with the operator's own keys.
Where these are enough, it is in force at once; else a proposal is written for others to sign.
"""

from typing import Annotated

import typer

from service.cli import metadata_delegations, metadata_files, metadata_keys
from service.cli.client import JsonObject
from service.cli.metadata_drafts import draft_renewal
from service.cli.metadata_files import session_of
from service.cli.offline_keys import own_key_ids
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, ProposeOption, YesOption
from service.cli.output import moment, print_json, print_table, remark, short
from service.cli.settling import Consent, report, settle

app = typer.Typer(help="Who signs update metadata: keys, thresholds, delegations, renewals.", no_args_is_help=True)
app.add_typer(metadata_keys.key_app, name="key")
app.add_typer(metadata_keys.keys_app, name="keys")
app.command()(metadata_delegations.delegate)
app.command()(metadata_delegations.undelegate)
app.command()(metadata_delegations.bins)
app.command()(metadata_files.show)
app.command()(metadata_files.sign)
app.command()(metadata_files.publish)


@app.command()
def status(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """List the roles of both repositories: version, expiry, threshold, keys, and which of them are yours.

    What people sign is verified on the way; the list itself is the service's word.
    """
    with session_of(operator_dir) as session:
        session.working_copy.fetch(session.client, now=session.now, expired=True)
        session.working_copy.fetch_director_root(session.client, now=session.now, expired=True)
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


def _with_own(role: JsonObject, own: dict[str, str]) -> JsonObject:
    return role | {"own_keys": [own[key] for key in role["key_ids"] if key in own]}


def _row(role: JsonObject) -> tuple[object, ...]:
    name = f"{role['repository']} {role['role']}"
    keys = [short(key) for key in role["key_ids"]]
    return name, role["version"], moment(role["expires_at"]), role["threshold"], keys, role["own_keys"]
