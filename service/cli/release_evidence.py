"""`release documents` and `release check`: what others may ask of a release, verified, and what is lacking."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from tuf.api.metadata import TargetFile

from pki.files import PUBLIC_MODE, replace_file
from protocol.cyclonedx import AnalysisState, Vex
from protocol.document import canonical_json
from protocol.errors import ProtocolError
from protocol.transparency import LogPolicy, policy_of, target_entry, verify_logged
from protocol.updates import DocumentKind, image_custom
from service.cli import clock
from service.cli.bills import is_complete
from service.cli.client import connect
from service.cli.evidence import Paper, Reader, ReleaseEvidence, release_evidence
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_json, print_line, print_table, short

NameArgument = Annotated[str, typer.Argument(help="Name of the release.")]
_SUFFIX = {DocumentKind.BOM: "cdx.json", DocumentKind.VEX: "vex.cdx.json", DocumentKind.PROVENANCE: "intoto.json"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that others may ask of a release.

    Attributes:
        found: in words.
    """

    what: str
    is_there: bool
    found: str


def documents(
    name: NameArgument,
    *,
    output: Annotated[Path, typer.Option(help="Folder that gets them.")],
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Download everything that is said of a release; verified against the signed targets before it is written."""
    with connect(operator_dir) as client:
        evidence = release_evidence(Reader(client, operator_dir, clock.now()), name)
    files = {f"{name}.release.json": canonical_json(evidence.document)}
    files |= {_file_name(paper, evidence): paper.content for paper in evidence.papers}
    output.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        replace_file(output / file, content, mode=PUBLIC_MODE)
    written = [str(output / file) for file in files]
    print_json(written) if as_json else print_line("\n".join(written))


def check(
    name: NameArgument,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Say what a file for the EU Cyber Resilience Act has of a release, and what it still lacks."""
    with connect(operator_dir) as client:
        reader = Reader(client, operator_dir, clock.now())
        evidence = release_evidence(reader, name)
        checks = [*judge(evidence, now=reader.now), _logged(reader, evidence)]
    lacking = [each.what for each in checks if not each.is_there]
    if as_json:
        items = [{"what": each.what, "ok": each.is_there, "found": each.found} for each in checks]
        print_json({"release": name, "lacking": lacking, "checks": items})
    else:
        rows = ((each.what, "yes" if each.is_there else "LACKING", each.found) for each in checks)
        print_table(f"Release {name}", ("what", "there", "found"), rows)
    if lacking:
        raise typer.Exit(1)


def judge(evidence: ReleaseEvidence, *, now: datetime) -> Iterator[Check]:
    """Yield what the documents of a release say, and what they lack.

    Args:
        evidence: verified.
        now: UTC, aware.
    """
    for image in evidence.images:
        custom = image_custom(image)
        bom = evidence.bills.get(custom.image_id)
        if bom is None:
            found = "none: pack the image with --bom, and release it anew"
        else:
            found = "complete" if is_complete(bom) else "it says itself that it is incomplete, or not whether it is"
        yield Check(f"bill of materials of {custom.name}", bom is not None and is_complete(bom), found)
    yield Check(
        "provenance",
        evidence.provenance is not None,
        "none" if evidence.provenance is None else "in-toto, signed by a package key, of exactly these images",
    )
    yield _statements(evidence)
    yield _support(evidence, now=now)


def _statements(evidence: ReleaseEvidence) -> Check:
    states = list(_states(evidence.statements))
    unsettled = sum(state in (AnalysisState.EXPLOITABLE, AnalysisState.IN_TRIAGE) for state in states)
    found = f"{len(states)} statements, {unsettled} of them exploitable or in triage"
    return Check("exploitability statements (VEX)", bool(states) and not unsettled, found if states else "none")


def _states(documents: Sequence[Vex]) -> Iterator[AnalysisState]:
    newest = {}
    for vex in documents:
        components = {each.bom_ref: each for each in vex.components}
        for statement in vex.vulnerabilities:
            for affected in statement.affects:
                component = components[affected.ref]
                newest[statement.id, component.name, component.version, component.purl] = statement.analysis.state
    yield from newest.values()


def _support(evidence: ReleaseEvidence, *, now: datetime) -> Check:
    ends = evidence.document.support_ends
    if ends is None:
        return Check("end of support", is_there=False, found="none: `release create --support-ends`")
    return Check("end of support", ends > now, f"{ends:%Y-%m-%d}" + ("" if ends > now else ": it is over"))


def _logged(reader: Reader, evidence: ReleaseEvidence) -> Check:
    policy = policy_of(reader.fetch([]).root)
    if policy is None:
        return Check("transparency log", is_there=False, found="the Image repository's root names none")
    proven = [image for image in evidence.images if _is_proven(reader, image, policy)]
    found = f"proofs of inclusion for {len(proven)} of {len(evidence.images)} images"
    return Check("transparency log", len(proven) == len(evidence.images), found)


def _is_proven(reader: Reader, image: TargetFile, policy: LogPolicy) -> bool:
    for logged in reader.client.get(f"/log/entries/{image.hashes['sha256']}")["items"]:
        try:
            verify_logged(target_entry(image), (logged["proof"] or "").encode(), policy)
        except ProtocolError:
            continue
        return True
    return False


def _file_name(paper: Paper, evidence: ReleaseEvidence) -> str:
    if paper.kind is DocumentKind.BOM:
        component = evidence.bills[paper.subject].metadata.component
        subject = f"{component.name}-{short(paper.subject)}"
    else:
        subject = paper.subject
    return f"{subject}-{short(paper.target.hashes['sha256'])}.{_SUFFIX[paper.kind]}"
