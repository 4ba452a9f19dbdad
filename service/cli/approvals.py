"""`tinyfleet approval`: requests for actions that take two persons."""

from typing import Annotated

import typer

from service.cli.client import JsonObject, connect
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import moment, print_facts, print_json, print_table, remark, short

app = typer.Typer(help="Requests for actions that take two persons.", no_args_is_help=True)

ApprovalArgument = Annotated[str, typer.Argument(help="Id of the request.", callback=one_id)]


@app.command("list")
def list_approvals(
    *,
    everything: Annotated[bool, typer.Option("--all", help="Those that are decided, too.")] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List the requests that wait for a decision."""
    with connect(operator_dir) as client:
        approvals = list(client.items("/approvals", pending="false" if everything else "true"))
    if as_json:
        print_json(approvals)
        return
    rows = (
        (
            approval["id"],
            approval["action"],
            short(approval["subject"]),
            approval["requested_by"],
            moment(approval["requested_at"]),
            approval["state"],
        )
        for approval in approvals
    )
    print_table(f"{len(approvals)} requests", ("request", "action", "on", "by", "at", "state"), rows)


@app.command()
def show(
    approval: ApprovalArgument,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show one request."""
    with connect(operator_dir) as client:
        answer = client.get(f"/approvals/{approval}")
    print_json(answer) if as_json else print_facts(answer)


@app.command()
def approve(
    approval: ApprovalArgument,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Approve another operator's request; what it asks for is done at once."""
    with connect(operator_dir) as client:
        answer = client.post(f"/approvals/{approval}/approve")
    if as_json:
        print_json(answer)
        return
    remark(
        f"{answer['action']} on {short(answer['subject'])}: approved and done, asked for by {answer['requested_by']}"
    )


@app.command()
def reject(approval: ApprovalArgument, *, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Reject a request, or take back your own."""
    with connect(operator_dir) as client:
        answer = client.post(f"/approvals/{approval}/reject")
    remark(f"{answer['action']} on {short(answer['subject'])}: rejected")


def remark_outcome(subject: str, done: str, answer: JsonObject) -> None:
    """Say that something is done, or that it waits for a second person.

    Args:
        subject: id of what it was done to.
        done: what has been done to it, e.g. `blocked`.
        answer: of the service: a request where two persons are needed.
    """
    if answer.get("state") == "pending":
        if stale := answer.get("replaces"):
            remark(f"{short(subject)}: request {stale} is closed as stale: what it was about has changed")
        remark(f"{short(subject)}: waits for another operator: tinyfleet approval approve {answer['id']}")
    else:
        remark(f"{short(subject)}: {done}")
