"""`tinyfleet template`: what devices learn their own normal by becomes a signed model package, or is refused.

Packing, in this order; nothing is written before all of it holds:
    1. the file describes a template, and its prior windows teach a detector;
    2. the detector fits the RAM that a core has for it;
    3. the package fits the core: home slot, shared spare;
    4. the golden vectors belong to the component, are signed by the golden key, and the prior knowledge answers them.
A release, a rollout, `model show` and `image verify` take the package as they take any model's.
"""

import base64
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from pki.files import PUBLIC_MODE, replace_file
from pki.packages import sign_golden
from protocol.geometry import Core
from protocol.learning import LearningTemplate, encode_template
from protocol.model import GoldenVector, GoldenVectors
from service.cli.catalog_papers import own_catalog
from service.cli.errors import BadArgumentError, CliError
from service.cli.host_run import model_slot
from service.cli.images import print_packed
from service.cli.models import JudgedModel, judge_answers, load_vectors, require_fit, sign_model
from service.cli.offered import OfferedImage, verify_offered, write_offered
from service.cli.offline_keys import offline_keys
from service.cli.options import (
    DEFAULT_OPERATOR_DIR,
    JsonOption,
    ModelPackageOption,
    OperatorDirOption,
    SecurityVersionOption,
)
from service.cli.output import print_facts, print_json
from service.cli.template_files import TemplateFile, load_template_file, load_windows, make_card, make_template
from tinyml.anomaly.cost import detector_facts
from tinyml.anomaly.detector import AnomalyDetector, verdict
from tinyml.golden import Infer

app = typer.Typer(help="Learning templates: how devices learn their own normal.", no_args_is_help=True)

DEFAULT_TOLERANCE = 0.15
DEFAULT_EACH = 3
_UNDECIDED = 0.5  # similarity at which a window is as much normal as it is not

TemplateArgument = Annotated[Path, typer.Argument(help="template.yaml: how devices learn.")]


class NoPriorError(CliError):
    """A template without prior knowledge answers no golden vector."""


class UnclearWindowError(CliError):
    """A window is not what it is given as, or too near to what it is not."""


@app.command()
def pack(
    template: TemplateArgument,
    *,
    core: Annotated[Core, typer.Option(help="Core that is to learn: m4-0 or m4-1.")],
    golden: Annotated[
        Path | None, typer.Option(help="Signed golden vectors (`template golden`); a release needs them.")
    ] = None,
    security_version: SecurityVersionOption = 1,
    out: ModelPackageOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Judge, pack and sign a learning template for a core."""
    slot, file = model_slot(core), load_template_file(template)
    made = make_template(file, template.parent)
    catalog, keys = own_catalog(operator_dir), offline_keys(operator_dir)
    vectors = load_vectors(golden, file.component_id, name=file.name, catalog=catalog)
    card = make_card(file, made, core=core, golden=None if vectors is None else vectors.reference)
    judged = JudgedModel(card, encode_template(made), detector_facts(made.layout))
    package = sign_model(judged, keys, security_version=security_version)
    require_fit(judged, package)
    if vectors is not None:
        judge_answers(card, vectors.vectors, infer=_by_prior(made, file))
    offered = OfferedImage(slot, package, verify_offered(package, slot, catalog), requires=file.requires)
    path = out or Path(f"{file.name}-{file.version}-{core}.img")
    write_offered(path, offered, golden=golden)
    print_packed(path, offered.image, slot=slot, as_json=as_json)


@app.command()
def golden(
    template: TemplateArgument,
    *,
    normal: Annotated[Path, typer.Option(help="Windows (.npy) that must be normal.")],
    anomaly: Annotated[Path, typer.Option(help="Windows (.npy) that must be anomalies.")],
    each: Annotated[int, typer.Option(min=1, max=100, help="How many of each.")] = DEFAULT_EACH,
    tolerance: Annotated[
        float, typer.Option(min=0.01, max=0.49, help="Largest difference of similarity that passes.")
    ] = DEFAULT_TOLERANCE,
    out: Annotated[Path | None, typer.Option(help="File of the signed vectors; default {name}-golden.json.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Sign windows with the similarity that the template's prior knowledge finds, for every device's trial to find."""
    file = load_template_file(template)
    made = make_template(file, template.parent)
    detector = _prior_detector(made, file)
    vectors = [
        *_vectors(detector, normal, each=each, tolerance=tolerance, is_normal=True),
        *_vectors(detector, anomaly, each=each, tolerance=tolerance, is_normal=False),
    ]
    document = GoldenVectors(component_id=file.component_id, vectors=tuple(vectors))
    path = out or Path(f"{file.name}-golden.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, sign_golden(document, offline_keys(operator_dir)), mode=PUBLIC_MODE)
    facts = {"golden": str(path), "component_id": file.component_id, "vectors": len(vectors), "tolerance": tolerance}
    print_json(facts) if as_json else print_facts(facts)


def _prior_detector(template: LearningTemplate, file: TemplateFile) -> AnomalyDetector:
    if not template.prior:
        raise NoPriorError(
            f"{file.name}: expected prior windows, without which a device on trial has no verdict, found none; "
            "name them as `prior`"
        )
    return AnomalyDetector(template, component_id=file.component_id)


def _by_prior(template: LearningTemplate, file: TemplateFile) -> Infer:
    detector = _prior_detector(template, file)
    return lambda window: verdict(detector.detect(window))


def _vectors(
    detector: AnomalyDetector, path: Path, *, each: int, tolerance: float, is_normal: bool
) -> list[GoldenVector]:
    windows = load_windows(path, detector.template.layout)
    if len(windows) < each:
        raise BadArgumentError(f"{path}: expected at least {each} windows, found {len(windows)}")
    return [
        _vector(detector, f"{path.stem}-{number}", window, tolerance=tolerance, is_normal=is_normal)
        for number, window in enumerate(windows[:each])
    ]


def _vector(
    detector: AnomalyDetector, name: str, window: np.ndarray, *, tolerance: float, is_normal: bool
) -> GoldenVector:
    values = verdict(detector.detect(window))
    similar = float(values[0])
    if not (similar - tolerance > _UNDECIDED if is_normal else similar + tolerance < _UNDECIDED):
        side = "above" if is_normal else "below"
        raise UnclearWindowError(
            f"{name}: expected a similarity {side} 50 % by more than {tolerance:.0%}, found {similar:.0%}"
        )
    content = base64.b64encode(window.tobytes()).decode()
    return GoldenVector(name=name, input=content, expected=tuple(map(float, values)), tolerance=tolerance)
