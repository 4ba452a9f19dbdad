"""`tinyfleet vex`: say what a vulnerability means to a release, at any time after it; signed as the release was.

Each statement is a CycloneDX document of its own among the signed targets. The newest about the same vulnerability and
component counts; those before it stay in force as history.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from urllib.parse import quote

import typer

from pki.listings import next_listings, releasers_role
from pki.metadata import content_target
from pki.online import TARGETS_METADATA_LIFETIME
from pki.proposals import Proposal, ProposedRepository
from protocol.cyclonedx import (
    Affected,
    Analysis,
    AnalysisState,
    Bom,
    Component,
    ComponentType,
    ExternalReference,
    Justification,
    Metadata,
    Statement,
    Vex,
    every_component,
)
from protocol.document import canonical_json
from protocol.image import digest_of
from protocol.updates import DocumentCustom, DocumentKind, document_target_name
from service.cli import clock
from service.cli.client import JsonObject, connect
from service.cli.errors import BadArgumentError, CliError
from service.cli.evidence import Reader, release_evidence
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, ProposeOption, YesOption
from service.cli.output import moment, print_facts, print_json, print_table
from service.cli.settling import Consent, Draft, Session, image_in_force, settle
from service.cli.working_copy import WorkingCopy

app = typer.Typer(help="What vulnerabilities mean to releases (VEX).", no_args_is_help=True)

_NAMESPACE = uuid.UUID("5f2d8a60-8f5e-4a52-9a0e-0b6a2f2b7c11")


class LastMomentError(CliError):
    """No statement can be newer than one that is in force."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is said of a vulnerability.

    Attributes:
        component: name, or name@version, of what it is in.
    """

    vulnerability: str
    component: str
    analysis: Analysis


@app.command()
def add(
    release: Annotated[str, typer.Argument(help="Name of the release.")],
    *,
    vulnerability: Annotated[str, typer.Option(help="Such as CVE-2026-0001.")],
    component: Annotated[str, typer.Option(help="NAME or NAME@VERSION, as a bill of materials has it.")],
    state: Annotated[AnalysisState, typer.Option(help="What the vulnerability means.")],
    justification: Annotated[Justification | None, typer.Option(help="Why it is not affected.")] = None,
    detail: Annotated[str | None, typer.Option(help="For people.")] = None,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Sign and publish a statement about a component of a release."""
    if state is AnalysisState.NOT_AFFECTED and justification is None:
        raise BadArgumentError("justification: expected one with --state not_affected, found none")
    said = Said(vulnerability, component, Analysis(state=state, justification=justification, detail=detail))
    with connect(operator_dir) as client:
        session = Session(client, WorkingCopy(operator_dir), offline_keys(operator_dir), clock.now())
        evidence = release_evidence(Reader(client, operator_dir, session.now), release)
        content = make_vex(release, evidence.bills, said, now=moment_after(evidence.statements, session.now))
        draft = _draft(session, release, content)
        answer = settle(session, draft, Consent(yes=yes, propose=propose, quiet=as_json))
    print_json(answer) if as_json else print_facts(answer)


@app.command("list")
def list_statements(
    release: Annotated[str | None, typer.Argument(help="Name of a release; all without it.")] = None,
    *,
    vulnerability: Annotated[str | None, typer.Option(help="Such as CVE-2026-0001.")] = None,
    history: Annotated[bool, typer.Option("--history", help="Show statements that newer ones replace, too.")] = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List what is said of vulnerabilities."""
    with connect(operator_dir) as client:
        said = list(client.items("/sbom/statements", release=release, vulnerability=vulnerability))
    shown = said if history else list(newest(said))
    if as_json:
        print_json(shown)
        return
    rows = (
        (moment(each["made_at"]), each["release"], each["vulnerability"], f"{each['name']} {each['version']}",
         each["state"], each["justification"])
        for each in shown
    )  # fmt: skip
    print_table(f"{len(shown)} statements", ("at", "release", "vulnerability", "component", "state", "because"), rows)


def newest(statements: Sequence[JsonObject]) -> Iterator[JsonObject]:
    """Yield, of statements in the order in which they came, the last about each component and vulnerability."""
    last = {
        (each["release"], each["vulnerability"], each["name"], each["version"], each["purl"]): each
        for each in statements
    }
    yield from last.values()


def make_vex(release: str, bills: Mapping[str, Bom], said: Said, *, now: datetime) -> bytes:
    """Make an exploitability document, canonical JSON.

    Args:
        release: its name.
        bills: the bill of materials of each of its images, by image id.
        said: of which component, and what.
        now: UTC, aware.

    Raises:
        BadArgumentError: no bill lists the component.
    """
    found = list(_affected(bills, said.component))
    if not found:
        raise BadArgumentError(f"component: expected one of release {release}, found no {said.component[:80]!r}")
    statement = Statement(
        id=said.vulnerability,
        analysis=said.analysis,
        affects=tuple(Affected(ref=component.bom_ref or "") for component in found),
    )
    moment = now.replace(microsecond=0)
    seed = b"\0".join((release.encode(), moment.isoformat().encode(), canonical_json(statement)))
    return canonical_json(
        Vex(
            serial_number=uuid.uuid5(_NAMESPACE, digest_of(seed)).urn,
            metadata=Metadata(timestamp=moment, component=Component(type=ComponentType.FIRMWARE, name=release)),
            components=tuple(found),
            vulnerabilities=(statement,),
        )
    )


def moment_after(said: Sequence[Vex], now: datetime) -> datetime:
    """Return a time in whole seconds that is later than what was said so far: the newest counts.

    Raises:
        LastMomentError: something was said at the end of all time that can be written.
    """
    try:
        return max([now, *(vex.metadata.timestamp + timedelta(seconds=1) for vex in said)])
    except OverflowError as error:
        newest = max(vex.metadata.timestamp for vex in said)
        raise LastMomentError(
            f"statements: expected a time after which another can be made, found one of {newest:%F %T}; whoever signed "
            "it keeps all newer ones of this release from counting"
        ) from error


def _affected(bills: Mapping[str, Bom], wanted: str) -> Iterator[Component]:
    name, _, version = wanted.partition("@")
    number = 0
    for bom in bills.values():
        for component in every_component(bom):
            if component.name == name and version in ("", component.version):
                number += 1
                yield _referred(component, bom, number)


def _referred(component: Component, bom: Bom, number: int) -> Component:
    # BOM-Link: where the component stands in the image's bill of materials.
    link = f"urn:cdx:{bom.serial_number.removeprefix('urn:uuid:')}/{bom.version}"
    if component.bom_ref is not None:
        link += f"#{quote(component.bom_ref, safe='')}"
    return Component(
        type=component.type,
        bom_ref=str(number),
        name=component.name,
        version=component.version,
        purl=component.purl,
        external_references=(ExternalReference(type="bom", url=link),),
    )


def _draft(session: Session, release: str, content: bytes) -> Draft:
    name = document_target_name(DocumentKind.VEX, digest_of(content))
    custom = DocumentCustom(kind=DocumentKind.VEX, subject=release)
    in_force = session.working_copy.fetch(session.client, now=session.now, names=[name])
    target = content_target(name, content, custom.model_dump(mode="json"))
    proposal = Proposal(
        repository=ProposedRepository.IMAGE,
        purpose=f"exploitability statement about release {release}",
        metadata=next_listings(
            in_force, {releasers_role(in_force, name): [target]}, expires=session.now + TARGETS_METADATA_LIFETIME
        ),
        documents={name: content},
    )
    return Draft(proposal, image_in_force(in_force), {name: content})
