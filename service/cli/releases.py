"""`tinyfleet release`: make releases of packages, sign them together, list them.

Where more keys must sign than one's folder has, `create` writes a proposal; each of the others adds a signature by
`sign`, and whoever has it when it is complete brings it into force by `publish`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Annotated

import typer
from tuf.api.metadata import TargetFile

from pki.roles import OfflineKey
from service.cli import clock, release_evidence
from service.cli.catalog_papers import maker_keys, own_catalog
from service.cli.client import ApiClient, JsonObject, connect
from service.cli.errors import BadArgumentError
from service.cli.metadata_files import publish as publish_proposal
from service.cli.metadata_files import sign as sign_proposal
from service.cli.offered import OfferedImage, load_offered
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, ProposeOption, YesOption
from service.cli.output import print_facts, print_json, print_table, remark, short
from service.cli.publishing import NewRelease, ReleaseDocuments, ReleaseRefusedError, check_name
from service.cli.release_documents import Origin, image_documents, release_documents
from service.cli.release_drafts import images_in_force, propose_release, propose_team_images
from service.cli.settling import Consent, Session, release_facts, report, settle
from service.cli.way_back import parse_goes_back
from service.cli.working_copy import WorkingCopy, find_release

LAST_SECOND = time(23, 59, 59)  # of a day, UTC
app = typer.Typer(help="Releases: make, sign and list them.", no_args_is_help=True)
app.command("sign")(sign_proposal)
app.command("publish")(publish_proposal)
app.command("documents")(release_evidence.documents)
app.command("check")(release_evidence.check)

PackagesArgument = Annotated[list[Path] | None, typer.Argument(help="Package files with their notes ({package}.json).")]
SupplierOption = Annotated[str | None, typer.Option(help="Who signs the images, as their bills of materials name him.")]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the release.")],
    packages: PackagesArgument = None,
    *,
    images: Annotated[
        list[str] | None, typer.Option("--images", help="Id of an image that is in force already; may be repeated.")
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Images that devices are made with: known, but never rolled out.")
    ] = False,
    way_back: Annotated[
        bool, typer.Option("--way-back", help="Sign the release that undoes this one, too: {NAME}-way-back.")
    ] = False,
    goes_back: Annotated[
        list[str] | None,
        typer.Option(
            "--goes-back",
            metavar="SLOT=SHA256",
            help="A newer image that devices may leave for this release's older one; need not be in force.",
        ),
    ] = None,
    must_pass: Annotated[
        bool, typer.Option("--must-pass", help="Devices must pass through it: no later release jumps over it.")
    ] = False,
    support_ends: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day on which you mend the release.")
    ] = None,
    supplier: SupplierOption = None,
    source_uri: Annotated[str | None, typer.Option(help="Where the sources are, such as git+https://…")] = None,
    source_commit: Annotated[str | None, typer.Option(help="Git commit of the sources, hex.")] = None,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Verify the metadata in force, show what changes, sign it here, and hand it to the service or to co-signers."""
    if not packages and not images:
        raise BadArgumentError("release: expected packages or --images, found none")
    check_name(name)
    newer = parse_goes_back(goes_back or ())
    keys = offline_keys(operator_dir)
    catalog, makers = own_catalog(operator_dir), maker_keys(operator_dir)
    offered = [load_offered(path, catalog, makers=makers) for path in packages or ()]
    with connect(operator_dir) as client:
        session = Session(client, WorkingCopy(operator_dir), keys, clock.now())
        listed = images_in_force(session, images or ())
        origin = Origin(supplier, source_uri, source_commit)
        release = NewRelease(
            name,
            offered=offered,
            listed=listed,
            factory=reference,
            support_ends=None if support_ends is None else datetime.combine(support_ends, LAST_SECOND, UTC),
            documents=_documents(session, name, origin, offered=offered, listed=listed),
            goes_back=newer,
            must_pass=must_pass,
        )
        draft = propose_release(session, release, way_back=way_back)
        answer = settle(session, draft, Consent(yes=yes, propose=propose, quiet=as_json))
    report(answer, as_json=as_json)


@app.command()
def add_images(
    packages: Annotated[list[Path], typer.Argument(help="Package files with their notes ({package}.json).")],
    *,
    role: Annotated[str, typer.Option(help="The team's role, whose keys sign.")],
    supplier: SupplierOption = None,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Publish images in a team's role; the catalog's releaser makes releases of them (`create --images`)."""
    keys = offline_keys(operator_dir)
    catalog, makers = own_catalog(operator_dir), maker_keys(operator_dir)
    offered = [load_offered(path, catalog, makers=makers) for path in packages]
    with connect(operator_dir) as client:
        session = Session(client, WorkingCopy(operator_dir), keys, clock.now())
        documents = image_documents(session, Origin(supplier), offered)
        draft = propose_team_images(session, offered, role=role, documents=documents)
        answer = settle(session, draft, Consent(yes=yes, propose=propose, quiet=as_json))
    answer["images"] = {each.slot: each.image.info.image_id for each in offered}
    report(answer, as_json=as_json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the release.")],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show everything that a release says; its document is verified against the metadata in force."""
    working_copy = WorkingCopy(operator_dir)
    with connect(operator_dir) as client:
        in_force = working_copy.fetch(client, now=clock.now())
        document = working_copy.fetch_release(client, _listed(find_release(in_force.targets, name), name))
    print_json(document.model_dump(mode="json")) if as_json else print_facts(release_facts(document))


@app.command("list")
def list_releases(
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """List releases."""
    with connect(operator_dir) as client:
        releases = _releases(client)
    if as_json:
        print_json(releases)
        return
    rows = ((item["counter"], item["name"], "yes" if item["factory"] else "", _slots(item)) for item in releases)
    print_table(f"{len(releases)} releases", ("counter", "name", "factory", "images"), rows)


def _documents(
    session: Session, name: str, origin: Origin, *, offered: Sequence[OfferedImage], listed: Sequence[TargetFile]
) -> ReleaseDocuments:
    if session.keys.holds(OfflineKey.PACKAGE):
        return release_documents(session, name, origin, offered=offered, listed=listed)
    remark(f"release {name}: without provenance, because the key {OfflineKey.PACKAGE}, which signs it, is not here")
    return image_documents(session, origin, offered)


def _releases(client: ApiClient) -> list[JsonObject]:
    return list(client.items("/releases"))


def _listed(target: TargetFile | None, name: str) -> TargetFile:
    if target is None:
        raise ReleaseRefusedError(f"release {name[:64]}: expected one in force, found none")
    return target


def _slots(release: JsonObject) -> dict[str, str]:
    return {image["slot"]: short(image["sha256"]) for image in release.get("images", [])}
