"""`tinyfleet metadata delegate|undelegate|patches|bins`: teams that sign images of their own, patches, hash bins."""

from typing import Annotated

import typer

from pki.metadata import MAX_BIN_BITS, Delegation
from protocol.geometry import Core, ImageKind, Slot
from protocol.identity import parse_guid
from protocol.updates import DocumentKind
from service.cli.errors import BadArgumentError
from service.cli.metadata_drafts import draft_bins, draft_delegation, draft_end_of_delegation, draft_patches
from service.cli.metadata_files import session_of
from service.cli.metadata_keys import KeysOption, public_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, ProposeOption, YesOption
from service.cli.settling import Consent, report, settle

patches_app = typer.Typer(help="Patches between images, which the service signs.", no_args_is_help=True)


def delegate(
    name: Annotated[str, typer.Argument(help="Name of the team's role.")],
    *,
    core: Annotated[Core, typer.Option(help="Core whose images the team signs.")],
    kind: Annotated[ImageKind, typer.Option(help="Kind of the images.")],
    keys: KeysOption,
    component: Annotated[str | None, typer.Option(help="GUID: golden vectors of this component alone.")] = None,
    threshold: Annotated[int, typer.Option(min=1, help="How many of the keys must sign.")] = 1,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Let a team sign images for one core and nothing else."""
    paths = team_paths(slot_of(core, kind), component)
    with session_of(operator_dir) as session:
        delegation = Delegation(name, tuple(public_keys(session.keys, keys)), threshold, paths)
        answer = settle(
            session, draft_delegation(session, delegation), Consent(yes=yes, propose=propose, quiet=as_json)
        )
    report(answer, as_json=as_json)


def undelegate(
    name: Annotated[str, typer.Argument(help="Name of the team's role.")],
    *,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """End a delegation: the team signs nothing more; what it listed stays in force under the catalog's own keys."""
    with session_of(operator_dir) as session:
        answer = settle(
            session, draft_end_of_delegation(session, name), Consent(yes=yes, propose=propose, quiet=as_json)
        )
    report(answer, as_json=as_json)


@patches_app.command()
def enable(
    *,
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Let the service offer patches, in a catalog from before there were any."""
    with session_of(operator_dir) as session:
        answer = settle(session, draft_patches(session), Consent(yes=yes, propose=propose, quiet=as_json))
    report(answer, as_json=as_json)


def bins(
    *,
    bits: Annotated[int, typer.Option(min=1, max=MAX_BIN_BITS, help="There will be 2^BITS bins.")],
    propose: ProposeOption = None,
    yes: YesOption = False,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Spread targets over hash bins, so that a device fetches a small part of a large repository."""
    with session_of(operator_dir) as session:
        answer = settle(session, draft_bins(session, bits), Consent(yes=yes, propose=propose, quiet=as_json))
    report(answer, as_json=as_json)


def slot_of(core: Core, kind: ImageKind) -> Slot:
    """Return the slot of a core that holds a kind of images.

    Raises:
        BadArgumentError: there is none.
    """
    found = next((slot for slot in Slot if slot.core is core and slot.kind is kind), None)
    if found is None:
        kinds = ", ".join(slot.kind for slot in Slot if slot.core is core)
        raise BadArgumentError(f"kind: expected one that {core} runs ({kinds}), found {kind}")
    return found


def team_paths(slot: Slot, component: str | None) -> tuple[str, ...]:
    """Return the target names of a team: images of one slot, their bills of materials, and golden vectors of models.

    Args:
        slot: whose images.
        component: GUID; None stands for every component.

    Raises:
        IdentityError: the component is no GUID.
    """
    golden = f"golden/{'*' if component is None else parse_guid(component)}/*"
    vectors = [golden] if slot.kind is ImageKind.MODEL else []
    return (f"images/{slot}/*", *vectors, f"documents/{DocumentKind.BOM}/*")
