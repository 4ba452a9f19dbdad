"""`tinyfleet model`: a .tflite file and its card become a signed model package, or are refused.

Packing, in this order; nothing is written before all of it holds:
    1. the file is a .tflite model, and the card describes it;
    2. it loads in TFLM, in a child process; its smallest arena is measured;
    3. the package fits the core: arena, home slot, shared spare, operators;
    4. the golden vectors belong to the component, are signed by the golden key, and pass on the host.
"""

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from pki.catalog import Catalog
from pki.keystore import KeyStore
from pki.packages import sign_package
from protocol.geometry import Core, ImageKind
from protocol.image import IMAGE_TYPE, MAX_PACKAGE_BYTES, ImageInfo, digest_of
from protocol.image_layout import read_layout
from protocol.model import GoldenReference, GoldenVectors, ModelCard, compose_model_payload, parse_model_payload
from service.cli import clock
from service.cli.card_words import explain_card
from service.cli.catalog_papers import own_catalog
from service.cli.errors import CliError
from service.cli.host_run import inference, model_slot
from service.cli.images import print_packed
from service.cli.model_cards import CardFile, check_card, check_core, complete_card, load_card
from service.cli.offered import OfferedImage, check_component, load_golden, read_input, verify_offered, write_offered
from service.cli.offline_keys import offline_keys
from service.cli.options import (
    DEFAULT_OPERATOR_DIR,
    JsonOption,
    ModelPackageOption,
    OperatorDirOption,
    SecurityVersionOption,
)
from service.cli.output import print_facts, print_json, print_line, remark
from tinyml.fetch import DEMO_MODELS, fetch_model
from tinyml.fit import check_fit, core_budget
from tinyml.flatbuffer import MAX_MODEL_BYTES, ModelFacts, read_model_facts
from tinyml.golden import Infer, run_golden_vectors
from tinyml.workers import InferencePool, ModelImage

app = typer.Typer(help="Models: fetch examples, judge, pack and sign.", no_args_is_help=True)

_EXAMPLE_CARDS = Path(__file__).with_name("demo_assets")


class GoldenVectorsFailedError(CliError):
    """The model does not answer the golden vectors of its component on the host."""


@dataclass(frozen=True, slots=True)
class JudgedModel:
    """A model that loads, with what was measured."""

    card: ModelCard
    content: bytes
    facts: ModelFacts


@dataclass(frozen=True, slots=True)
class SignedVectors:
    """Golden vectors, verified, and how a card refers to them."""

    vectors: GoldenVectors
    reference: GoldenReference


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help=f"One of {', '.join(DEMO_MODELS)}.")],
    *,
    out: Annotated[
        Path, typer.Option(help="Folder that gets {name}.tflite, and its card if the demo has one.")
    ] = Path(),
) -> None:
    """Fetch an example model, pinned by SHA-256, with the card that the demo packs it by."""
    model, card = fetch_model(name, progress=remark), _EXAMPLE_CARDS / f"{name}.yaml"
    out.mkdir(parents=True, exist_ok=True)
    for source in (model, *([card] if card.exists() else ())):
        shutil.copyfile(source, out / source.name)
        print_line(str(out / source.name))


@app.command()
def pack(
    model: Annotated[Path, typer.Argument(help="The .tflite file.")],
    *,
    card: Annotated[Path, typer.Option(help="card.yaml: what the model is.")],
    core: Annotated[Core, typer.Option(help="Core that is to run it: m4-0 or m4-1.")],
    golden: Annotated[
        Path | None, typer.Option(help="Signed golden vectors (`golden make`); a release needs them.")
    ] = None,
    security_version: SecurityVersionOption = 1,
    out: ModelPackageOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Judge, pack and sign a model for a core."""
    model_slot(core)
    author, content = load_card(card), read_input(model, max_bytes=MAX_MODEL_BYTES)
    check_core(author, core)
    catalog, keys = own_catalog(operator_dir), offline_keys(operator_dir)
    vectors = load_vectors(golden, author.component_id, name=author.name, catalog=catalog)
    with InferencePool(workers=1) as pool:
        judged = judge(content, author, core=core, pool=pool, golden=None if vectors is None else vectors.reference)
        package = sign_model(judged, keys, security_version=security_version)
        require_fit(judged, package)
        if vectors is not None:
            require_golden(judged, vectors.vectors, pool)
    slot = model_slot(core)
    offered = OfferedImage(slot, package, verify_offered(package, slot, catalog), requires=judged.card.requires)
    path = out or Path(f"{author.name}-{author.version}-{core}.img")
    write_offered(path, offered, golden=golden)
    print_packed(path, offered.image, slot=slot, as_json=as_json)


@app.command()
def show(
    package: Annotated[Path, typer.Argument(help="Model package.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Explain the card of a model package in words; who signed it is for `image verify` to say."""
    layout = read_layout(read_input(package, max_bytes=MAX_PACKAGE_BYTES))
    card = parse_model_payload(layout.payload).card
    print_json(card.model_dump(mode="json")) if as_json else print_facts(explain_card(card))


def judge(
    content: bytes, author: CardFile, *, core: Core, pool: InferencePool, golden: GoldenReference | None = None
) -> JudgedModel:
    """Read and measure a model.

    Raises:
        ModelFormatError: not a .tflite model.
        CardError: the card does not describe it.
        InferenceError: TFLM does not load it.
    """
    facts = read_model_facts(content)
    check_card(author, facts)
    arena_bytes = pool.smallest_arena(content)
    card = complete_card(author, facts, core=core, content=content, arena_bytes=arena_bytes, golden=golden)
    return JudgedModel(card, content, facts)


def sign_model(judged: JudgedModel, keys: KeyStore, *, security_version: int) -> bytes:
    """Lay out and sign a judged model's package.

    Raises:
        ProtocolError: the card is too large, or its name and version for a package.
        KeyStoreError: the package key cannot be used.
    """
    card = judged.card
    info = ImageInfo(
        image_type=IMAGE_TYPE[ImageKind.MODEL],
        component_id=card.component_id,
        image_id=str(uuid.uuid4()),
        name=f"{card.name}@{card.version}",
        security_version=security_version,
        built_at=clock.now().replace(microsecond=0),
    )
    return sign_package(compose_model_payload(card, judged.content), info, kind=ImageKind.MODEL, keys=keys)


def require_golden(judged: JudgedModel, vectors: GoldenVectors, pool: InferencePool) -> None:
    """Refuse a model that does not answer its golden vectors on the host.

    Raises:
        GoldenVectorsFailedError: names each vector that fails and by how much.
        InferenceError: the model gives no answer.
    """
    model = ModelImage(judged.content, judged.card.measured.arena_bytes)
    judge_answers(judged.card, vectors, infer=inference(pool, model, judged.facts))


def judge_answers(card: ModelCard, vectors: GoldenVectors, *, infer: Infer) -> None:
    """Refuse what does not answer its golden vectors.

    Raises:
        GoldenVectorsFailedError: names each vector that fails and by how much.
    """
    report = run_golden_vectors(vectors.vectors, card.input, infer=infer)
    if not report.passed:
        failures = "; ".join(
            f"{failure.name}: expected at most {failure.tolerance:g} off, found {failure.max_difference:.4g}"
            for failure in report.failures
        )
        raise GoldenVectorsFailedError(f"{card.name}@{card.version}: golden vectors: {failures}")


def load_vectors(path: Path | None, component_id: str, *, name: str, catalog: Catalog) -> SignedVectors | None:
    """Read the signed golden vectors of a component; None where there are none yet.

    Args:
        path: of the signed document.
        component_id: whose they must be.
        name: of the model, for messages.
        catalog: our own.

    Raises:
        PackageFileError: the file cannot be read, or the vectors belong to another component.
        ProtocolError: malformed, or not signed by a golden key of ours.
    """
    if path is None:
        return None
    envelope, vectors = load_golden(path, catalog)
    check_component(vectors, component_id, name)
    count = len(vectors.vectors)
    reference = GoldenReference(component_id=vectors.component_id, sha256=digest_of(envelope), vectors=count)
    return SignedVectors(vectors, reference)


def require_fit(judged: JudgedModel, package: bytes) -> None:
    """Show each check of a model against its core.

    Raises:
        FitError: it does not fit.
    """
    report = check_fit(
        judged.facts,
        core_budget(judged.card.core),
        arena_bytes=judged.card.measured.arena_bytes,
        package_bytes=len(package),
    )
    for check in report.checks:
        remark(f"{'fits' if check.ok else 'DOES NOT FIT'}: {check}")
    report.require_fit()
