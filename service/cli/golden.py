"""`tinyfleet golden make`: golden vectors of a component, signed by the golden key.

A reference model that is known to answer well gives the expected answers; from then on every model of the component
must give them within the tolerance. The golden key is another one than the package key, so that the author of a model
cannot also decide what counts as a good answer.
"""

import base64
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Annotated
from zipfile import BadZipFile

import numpy as np
import typer

from pki.files import PUBLIC_MODE, replace_file
from pki.packages import sign_golden
from protocol.document import MAX_DOCUMENT_BYTES
from protocol.model import GoldenVector, GoldenVectors, InputContract
from service.cli.errors import BadArgumentError, CliError
from service.cli.host_run import inference
from service.cli.model_cards import CardFile, check_card, load_card
from service.cli.offered import PackageFileError, read_input
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_facts, print_json
from tinyml.flatbuffer import MAX_MODEL_BYTES, read_model_facts
from tinyml.photos import PHOTO_NAMES, load_photo
from tinyml.preprocess import photo_tensor
from tinyml.workers import InferencePool, ModelImage

app = typer.Typer(help="Golden vectors: what every model of a component must answer.", no_args_is_help=True)

DEFAULT_TOLERANCE = 0.05
MAX_INPUT_BYTES = 4 * 1024 * 1024


class GoldenSizeError(CliError):
    """The golden vectors are larger than a device takes."""


class ReferenceModelError(CliError):
    """The reference model cannot say what a good answer is."""


@app.callback()
def golden() -> None:
    """Golden vectors: what every model of a component must answer."""


@app.command()
def make(
    inputs: Annotated[
        list[str], typer.Argument(help=f"Photos by name ({', '.join(PHOTO_NAMES)}) or .npy files of input tensors.")
    ],
    *,
    model: Annotated[Path, typer.Option(help="The .tflite file of the reference model.")],
    card: Annotated[Path, typer.Option(help="Its card.yaml, which names the component.")],
    tolerance: Annotated[
        float, typer.Option(help="Largest difference of any output value that passes.")
    ] = DEFAULT_TOLERANCE,
    out: Annotated[Path | None, typer.Option(help="File of the signed vectors; default {name}-golden.json.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Run a reference model on inputs, and sign its answers as those that every model must give."""
    if not tolerance > 0:
        raise BadArgumentError(f"tolerance: expected more than 0, found {tolerance:g}")
    author = load_card(card)
    tensors = {name: _tensor(name, author.input) for name in inputs}
    answers = _answers(read_input(model, max_bytes=MAX_MODEL_BYTES), author, list(tensors.values()))
    vectors = tuple(
        _vector(Path(name).stem, tensor, answer, tolerance=tolerance)
        for (name, tensor), answer in zip(tensors.items(), answers, strict=True)
    )
    document = GoldenVectors(component_id=author.component_id, vectors=vectors)
    path = out or Path(f"{author.name}-golden.json")
    envelope = sign_golden(document, offline_keys(operator_dir))
    if len(envelope) > MAX_DOCUMENT_BYTES:
        raise GoldenSizeError(f"golden vectors: expected at most {MAX_DOCUMENT_BYTES:,} bytes, found {len(envelope):,}")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, envelope, mode=PUBLIC_MODE)
    facts = {"golden": str(path), "component_id": author.component_id, "vectors": len(vectors), "tolerance": tolerance}
    print_json(facts) if as_json else print_facts(facts)


def _tensor(name: str, contract: InputContract) -> np.ndarray:
    if name in PHOTO_NAMES:
        return photo_tensor(load_photo(name).pixels, contract)
    content = read_input(Path(name), max_bytes=MAX_INPUT_BYTES)
    try:
        tensor = np.load(BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError, BadZipFile) as error:  # what looks like a zip is opened as one
        raise PackageFileError(f"{name}: expected a photo's name or a .npy file, found: {error}") from error
    if not isinstance(tensor, np.ndarray) or (tensor.shape, tensor.dtype.name) != (contract.shape, contract.dtype):
        raise PackageFileError(f"{name}: expected one {contract.dtype} tensor of shape {contract.shape}, found another")
    return tensor


def _answers(content: bytes, author: CardFile, tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
    facts = read_model_facts(content)
    check_card(author, facts)
    with InferencePool(workers=1) as pool:
        infer = inference(pool, ModelImage(content, pool.smallest_arena(content)), facts)
        answers = [infer(tensor) for tensor in tensors]
    if not all(np.isfinite(answer).all() for answer in answers):
        raise ReferenceModelError("reference model: expected numbers as answers, found a value that is none")
    return answers


def _vector(name: str, tensor: np.ndarray, answer: np.ndarray, *, tolerance: float) -> GoldenVector:
    return GoldenVector(
        name=name,
        input=base64.b64encode(tensor.tobytes()).decode(),
        expected=tuple(float(value) for value in answer),
        tolerance=tolerance,
    )
