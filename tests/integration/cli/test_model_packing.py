"""`tinyfleet golden make` and `model pack` with real models in the real TFLM interpreter."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import tflite  # type: ignore[import-untyped] # the package has no annotations
import yaml
from typer.testing import CliRunner, Result

from pki.keystore import PASSPHRASE_VARIABLE
from protocol.document import EnvelopeSignatureError, verify_document
from protocol.errors import ProtocolError
from protocol.geometry import SECTOR_BYTES, Core, ImageKind
from protocol.image import digest_of, verify_package
from protocol.image_layout import read_layout
from protocol.model import GOLDEN_PAYLOAD_TYPE, GoldenVectors, Quantised, parse_model_payload
from service.cli.errors import BadArgumentError
from service.cli.golden import GoldenSizeError
from service.cli.main import make_app
from service.cli.model_cards import CardError
from service.cli.models import GoldenVectorsFailedError
from service.cli.offered import Note, PackageFileError, note_path
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tinyml.errors import FitError, InferenceError, ModelFormatError, TinymlError
from tinyml.fetch import fetch_model
from tinyml.latency import Profile

CARDS = Path(__file__).parents[3] / "service" / "cli" / "demo_assets"
IMAGE_CARD = CARDS / "image-classification.yaml"
PERSON_CARD = CARDS / "person-detection.yaml"


class Packer:
    """Runs the commands in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folders = make_quick_folders(folder / "data")
        self.image = Path(shutil.copy(fetch_model("image-classification"), folder / "image.tflite"))
        self.person = Path(shutil.copy(fetch_model("person-detection"), folder / "person.tflite"))
        self.golden = folder / "golden.json"

    def run(self, *arguments: object) -> Result:
        words = [*map(str, arguments), "--operator-dir", str(self.folders.operator)]
        return CliRunner().invoke(make_app(words), words)

    def make(self, *inputs: object, model: Path | None = None, card: Path = IMAGE_CARD, **options: object) -> Result:
        chosen = [word for name, value in options.items() for word in (f"--{name}", value)]
        base = ("--model", model or self.image, "--card", card, "--out", self.golden)
        return self.run("golden", "make", *inputs, *base, *chosen, "--json")

    def pack(self, model: Path | None = None, *, card: Path = IMAGE_CARD, core: str = "m4-1") -> Result:
        out = ("--golden", self.golden, "--out", "model.img", "--json")
        return self.run("model", "pack", model or self.image, "--card", card, "--core", core, *out)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Signed answers of image classification to two photos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
        packer = Packer(tmp_path_factory.mktemp("golden"))
        assert packer.make("horse", "cat").exit_code == 0
    return packer.golden.read_bytes()


@pytest.fixture
def packer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden: bytes) -> Packer:
    """An operator with image classification and its golden vectors."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    monkeypatch.chdir(tmp_path)
    packer = Packer(tmp_path)
    packer.golden.write_bytes(golden)
    return packer


def _refused(result: Result, error: type[Exception], message: str) -> None:
    """The command failed with our error and left no package."""
    assert result.exit_code == 1
    assert result.exception is not None
    with pytest.raises(error, match=message):
        raise result.exception
    assert not Path("model.img").exists()
    assert not note_path(Path("model.img")).exists()


def _card(changes: Mapping[str, object], *, of: Path = IMAGE_CARD) -> Path:
    path = Path("card.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(of.read_text()) | dict(changes)))
    return path


def test_model_is_measured_packed_and_signed(packer: Packer) -> None:
    """The card's figures are measured, and the package holds model and card."""
    result = packer.pack()
    assert result.exit_code == 0, result.output
    package = Path("model.img").read_bytes()
    image = verify_package(package, [packer.folders.keys.load("package").public_key], kind=ImageKind.MODEL)
    unpacked = parse_model_payload(image.payload)
    assert unpacked.model == packer.image.read_bytes()
    assert (unpacked.card.core, image.info.name) == (Core.M4_1, "image-classification@1.0.0")
    assert unpacked.card.measured.arena_bytes == 55_984
    assert json.loads(result.stdout)["sha256"] == image.digest
    note = Note.model_validate_json(note_path(Path("model.img")).read_bytes())
    assert (note.golden, note.sha256) == ("golden.json", image.digest)
    assert "package in the home slot" in result.stderr


def test_golden_vectors_hold_the_reference_models_answers(packer: Packer) -> None:
    """Signed by the golden key; one answer per label."""
    golden_key = packer.folders.keys.load("golden").public_key
    vectors = verify_document(packer.golden.read_bytes(), GOLDEN_PAYLOAD_TYPE, GoldenVectors, trusted_keys=[golden_key])
    assert [vector.name for vector in vectors.vectors] == ["horse", "cat"]
    horse = vectors.vectors[0]
    assert len(horse.expected) == 10
    assert max(range(10), key=lambda label: horse.expected[label]) == 7


def test_golden_vectors_may_come_from_numpy_files(packer: Packer) -> None:
    """A tensor in the shape and type of the card."""
    np.save("noise.npy", np.zeros((1, 32, 32, 3), np.int8))
    assert json.loads(packer.make("noise.npy", "cat").stdout)["vectors"] == 2


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (np.zeros((1, 32, 32, 3), np.uint8), "expected one int8 tensor of shape"),
        (np.zeros((32, 32), np.int8), "expected one int8 tensor of shape"),
        (np.array([object()]), "expected a photo's name or a .npy file"),
    ],
)
def test_input_of_another_form_is_refused(packer: Packer, tensor: np.ndarray, message: str) -> None:
    """Another type or shape, or pickled objects."""
    np.save("input.npy", tensor)
    result = packer.make("input.npy")
    assert isinstance(result.exception, PackageFileError)
    assert message in str(result.exception)


def test_golden_vectors_that_no_device_takes_are_refused(packer: Packer) -> None:
    """More than a device reads: said when they are made, not when they are rolled out."""
    before = packer.golden.read_bytes()
    photos = ("astronaut", "camera-man", "cat", "horse", "rocket", "coffee", "motorcycle")
    np.save("a.npy", np.full((1, 96, 96, 3), 0.1, np.float32))
    np.save("b.npy", np.full((1, 96, 96, 3), 0.2, np.float32))
    result = packer.make(*photos, "a.npy", "b.npy", model=packer.person, card=PERSON_CARD)
    assert isinstance(result.exception, GoldenSizeError)
    assert packer.golden.read_bytes() == before


@pytest.mark.parametrize("tolerance", ["0", "-1", "nan"])
def test_tolerance_that_judges_nothing_is_refused(packer: Packer, tolerance: str) -> None:
    """Nothing would ever pass."""
    result = packer.make("cat", tolerance=tolerance)
    assert isinstance(result.exception, BadArgumentError)


def test_model_that_does_not_fit_is_refused_by_how_much(packer: Packer) -> None:
    """Person detection is too large for the home slot of m4-1."""
    card = _card({"core": "m4-1"}, of=PERSON_CARD)
    packer.make("cat", model=packer.person, card=card)
    message = "package in the home slot: expected at most 114,688 bytes, found 33.*, 22.* too many"
    _refused(packer.pack(packer.person, card=card), FitError, message)


def _with_other_weights(content: bytes) -> bytes:
    """Turn the largest tensor around: a valid model that has learnt something else."""
    model = tflite.Model.GetRootAs(content, 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    weights = max((bytes(buffer.DataAsNumpy()) for buffer in buffers if buffer.DataLength()), key=len)
    return content.replace(weights, weights[::-1])


def test_model_that_fails_its_golden_vectors_is_refused(packer: Packer) -> None:
    """Another model of the same shape, which answers otherwise."""
    packer.image.write_bytes(_with_other_weights(packer.image.read_bytes()))
    _refused(packer.pack(), GoldenVectorsFailedError, "image-classification@1.0.0: golden vectors: .*expected at most")


def test_golden_vectors_by_another_key_are_refused(packer: Packer) -> None:
    """The golden key of our own folder is none that the catalog names."""
    keys = packer.folders.keys
    keys.files.path("golden").unlink()
    keys.generate("golden")
    assert packer.make("cat").exit_code == 0
    _refused(packer.pack(), EnvelopeSignatureError, "GoldenVectors: expected a signature")


def test_golden_vectors_of_another_component_are_refused(packer: Packer) -> None:
    """They belong to one component."""
    card = _card({"component_id": "253ee667-88ae-4f55-acf6-2cdaa9ca15bc"})
    _refused(packer.pack(card=card), PackageFileError, "golden vectors for image-classification: expected component")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"core": "m4-0"}, CardError, "card, core: expected m4-1 as on the command line, found m4-0"),
        ({"labels": ["a", "b"]}, CardError, "card, labels: expected 10, one per output value, found 2"),
        ({"input": {"shape": [1, 32, 32, 3], "dtype": "float32"}}, CardError, "card, input: expected int8 of shape"),
        ({"version": "one"}, ProtocolError, "CardFile: version"),
        ({"arena": 5}, ProtocolError, "CardFile: arena: Extra inputs are not permitted"),
        ({"input": {"shape": [1], "dtype": "int8", "scale": float("inf")}}, ProtocolError, "CardFile: input"),
    ],
)
def test_card_that_does_not_describe_the_model_is_refused(
    packer: Packer, changes: dict[str, object], error: type[Exception], message: str
) -> None:
    """The message names the field."""
    _refused(packer.pack(card=_card(changes)), error, message)


@pytest.mark.parametrize(
    "content", [b"{unclosed", b"\xff\xfe\x00", b"- a\n- b\n", b"", b"a: !!python/object:os.system {}"]
)
def test_file_that_is_no_card_is_refused(packer: Packer, content: bytes) -> None:
    """No YAML, another YAML, or YAML that would run code."""
    Path("card.yaml").write_bytes(content)
    result = packer.pack(card=Path("card.yaml"))
    assert result.exit_code == 1
    assert isinstance(result.exception, CardError | ProtocolError)


def _truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _without_identifier(content: bytes) -> bytes:
    return content[:4] + b"NOPE" + content[8:]


def _of_text(_content: bytes) -> bytes:
    return b"this is no model"


@pytest.mark.parametrize("damage", [_truncated, _without_identifier, _of_text])
def test_file_that_is_no_model_is_refused(packer: Packer, damage: Callable[[bytes], bytes]) -> None:
    """Truncated, of another format, or text."""
    packer.image.write_bytes(damage(packer.image.read_bytes()))
    result = packer.pack()
    _refused(result, TinymlError, "expected|found")
    assert isinstance(result.exception, ModelFormatError | InferenceError)


def test_missing_file_and_core_without_models_are_refused(packer: Packer) -> None:
    """Each by name."""
    _refused(packer.pack(Path("none.tflite")), PackageFileError, "none.tflite: expected a readable file")
    result = packer.pack(core="a7")
    assert isinstance(result.exception, BadArgumentError)


def test_card_says_what_was_measured_and_predicted(packer: Packer) -> None:
    """Contracts as the model has them, flash in sectors, latency by stack with its error, the vectors that passed."""
    said = {"output": {"meaning": "probability"}, "requires": {"m4-1-runtime": ">=1.0"}, "trained_on": "CIFAR-10"}
    assert packer.pack(card=_card(said)).exit_code == 0
    package = Path("model.img").read_bytes()
    card = parse_model_payload(read_layout(package).payload).card
    assert card.output is not None
    assert (card.output.shape, card.output.dtype, card.output.meaning) == ((1, 10), "int8", "probability")
    assert card.output.quantised == Quantised(scale=0.00390625, zero_point=-128)
    assert card.input.quantised is not None
    assert card.measured.flash_bytes == -(-len(package) // SECTOR_BYTES) * SECTOR_BYTES
    assert {each.profile for each in card.latency} == {profile.value.name for profile in Profile}
    assert all(each.milliseconds > 0 and each.error_share >= 0.35 for each in card.latency)
    assert card.golden is not None
    assert (card.golden.sha256, card.golden.vectors) == (digest_of(packer.golden.read_bytes()), 2)
    assert (card.requires, card.trained_on) == ({"m4-1-runtime": ">=1.0"}, "CIFAR-10")
    note = Note.model_validate_json(note_path(Path("model.img")).read_bytes())
    assert note.requires == {"m4-1-runtime": ">=1.0"}


def test_model_show_explains_the_card_in_words(packer: Packer) -> None:
    """Where it may run, what goes in and out, how far the figures reach, what nobody said."""
    evaluation = [{"dataset": "CIFAR-10", "metric": "accuracy", "value": 0.85, "samples": 10_000}]
    said = {"evaluation": evaluation, "requires": {"m4-1-runtime": ">=1.0"}}
    assert packer.pack(card=_card(said)).exit_code == 0
    words = ("model", "show", "model.img")
    text = " ".join(CliRunner().invoke(make_app(words), words).stdout.split())
    for expected in (
        "m4-1, and no other",
        "int8 of shape 1 × 32 × 32 × 3: each sample × 1 − 128; stored q stands for 0.0078125 × (q + 0)",
        "of the 112 KiB that m4-1 has for a model",
        "55,984 bytes at least, in one piece: fits SYSRAM or TCM",
        "multiply-accumulates for one inference",
        "modelled, not measured",
        "answered 2 of its component on the host",
        "accuracy 0.85 on 10,000 samples of CIFAR-10",
        "m4-1-runtime >=1.0",
    ):
        assert expected in text


def test_scale_that_the_model_does_not_have_is_refused(packer: Packer) -> None:
    """The author may say it, but then it must be the model's."""
    contract = {"shape": [1, 32, 32, 3], "dtype": "int8", "quantised": {"scale": 0.5, "zero_point": 0}}
    _refused(packer.pack(card=_card({"input": contract})), CardError, "card, input: expected scale=")
