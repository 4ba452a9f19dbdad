"""`tinyfleet log require|release`: have the Image root name the log that devices ask for proofs, or name none."""

from typing import Annotated

import typer
from tuf.api.metadata import Root

from pki.log_key import with_log_policy
from pki.metadata import next_root
from pki.online import ROOT_METADATA_LIFETIME
from pki.proposals import Proposal, ProposedRepository
from protocol.transparency import LogPolicy, parse_policy, policy_of
from service.cli.errors import BadArgumentError
from service.cli.metadata_files import session_of
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, ProposeOption, YesOption
from service.cli.settling import Consent, Draft, Session, image_in_force, report, settle

PolicyWitnessOption = Annotated[
    list[str] | None, typer.Option("--witness", help="Verifier key of a witness that counts; may be repeated.")
]
PolicyQuorumOption = Annotated[
    int | None, typer.Option(min=0, help="How many witnesses must have cosigned; else more than half.")
]


def require(
    *,
    key: Annotated[str, typer.Option("--key", help="Verifier key of the log; else what the service says.")] = "",
    witness: PolicyWitnessOption = None,
    quorum: PolicyQuorumOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    yes: YesOption = False,
    propose: ProposeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have devices require that every image is logged and cosigned: the next version of the Image root says so."""
    with session_of(operator_dir) as session:
        log = key or str(session.client.get("/log")["key"])
        witnesses = witness or []
        default = len(witnesses) // 2 + 1 if witnesses else 0
        policy = parse_policy(
            {
                "origin": log.partition("+")[0],
                "log": log,
                "witnesses": witnesses,
                "quorum": default if quorum is None else quorum,
            }
        )
        purpose = f"log {policy.origin}, {policy.quorum} of {len(witnesses)} witnesses"
        answer = settle(session, _draft(session, policy, purpose), Consent(yes, propose, as_json))
    report(answer, as_json=as_json)


def release(
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    yes: YesOption = False,
    propose: ProposeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Have devices require no proof any more; the service goes on logging."""
    with session_of(operator_dir) as session:
        answer = settle(session, _draft(session, None, "no log required"), Consent(yes, propose, as_json))
    report(answer, as_json=as_json)


def _draft(session: Session, policy: LogPolicy | None, purpose: str) -> Draft:
    repository = session.working_copy.fetch(session.client, now=session.now, everything=True, expired=True)
    if policy_of(repository.root) == policy:
        raise BadArgumentError("log: expected another policy than the Image root has, found the same")
    changed = with_log_policy(repository.root, policy)
    content = next_root(changed, {}, expires=session.now + ROOT_METADATA_LIFETIME)
    proposal = Proposal(repository=ProposedRepository.IMAGE, purpose=purpose, metadata={Root.type: content})
    return Draft(proposal, image_in_force(repository))
