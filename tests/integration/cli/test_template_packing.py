"""`tinyfleet template golden` and `template pack`, and a device that runs the trial of what they made."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from device_sim.cores.a7 import run_golden
from device_sim.cores.m4 import M4Core
from device_sim.learning.states import LearnedStates
from pki.catalog import Catalog
from pki.keystore import PASSPHRASE_VARIABLE
from protocol.geometry import Core, ImageKind
from protocol.image import verify_package
from protocol.messages import Cause
from protocol.model import ModelKind, parse_model_payload
from protocol.payloads import check_payload
from service.cli.catalog_papers import own_catalog
from service.cli.main import make_app
from service.cli.models import GoldenVectorsFailedError
from service.cli.offered import PackageFileError, load_golden, note_path, read_note
from service.cli.template_files import TemplateFileError
from service.cli.templates import NoPriorError, UnclearWindowError
from tests.learning_template import COMPONENT
from tests.quick_folders import PASSPHRASE, make_quick_folders
from tests.unit.device_hardware.device_builder import ColourInference
from tests.unit.tinyml.synthetic_vibration import synthetic_machine
from tinyml.latency import Profile

FILE = {
    "name": "pump-vibration",
    "version": "1.0.0",
    "component_id": COMPONENT,
    "layout": {"window_samples": 256, "rate_hz": 3200, "bands": 16, "low_hz": 12.5, "high_hz": 1600},
    "warm_up_windows": 50,
    "prior": "healthy.npy",
    "requires": {"telemetry-app": ">=2.1"},
}


class Author:
    """Runs the commands in a folder with windows of one kind of machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.operator = make_quick_folders(folder / "data").operator
        rng, machine = np.random.default_rng(4), synthetic_machine(4)
        self.save("healthy", machine.windows(rng, 150))
        self.save("normal", machine.windows(rng, 3))
        self.save("faulty", machine.windows(rng, 3, fault="bearing"))
        self.write()

    def save(self, name: str, windows: list[np.ndarray]) -> None:
        np.save(self.folder / f"{name}.npy", np.array(windows))

    def write(self, **changes: object) -> None:
        (self.folder / "template.yaml").write_text(yaml.safe_dump(FILE | changes))

    def run(self, *arguments: object) -> Result:
        words = [*map(str, arguments), "--operator-dir", str(self.operator)]
        return CliRunner().invoke(make_app(words), words)

    def golden(self, *, normal: str = "normal.npy", anomaly: str = "faulty.npy") -> Result:
        out = ("--out", "golden.json", "--json")
        return self.run("template", "golden", "template.yaml", "--normal", normal, "--anomaly", anomaly, *out)

    def pack(self) -> Result:
        words = ("--core", "m4-1", "--golden", "golden.json", "--out", "template.img", "--json")
        return self.run("template", "pack", "template.yaml", *words)

    @property
    def catalog(self) -> Catalog:
        return own_catalog(self.operator)


@pytest.fixture
def author(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Author:
    monkeypatch.setenv(PASSPHRASE_VARIABLE, PASSPHRASE)
    monkeypatch.chdir(tmp_path)
    return Author(tmp_path)


def core_with(package: bytes, author: Author) -> M4Core:
    image = verify_package(package, author.catalog.package_keys, kind=ImageKind.MODEL)
    core = M4Core(Core.M4_1, pool=ColourInference(), profile=Profile.REFERENCE, learned=LearnedStates({}))  # type: ignore[arg-type]  # nothing is kept
    core.start(image, image, keeps_learned=False)
    return core


def test_packed_template_passes_its_trial_on_a_core(author: Author) -> None:
    """Signed golden vectors, a package that every command takes for a model's, and the same verdict on the device."""
    assert author.golden().exit_code == 0
    packed = author.pack()
    assert packed.exit_code == 0, packed.output
    package = (author.folder / "template.img").read_bytes()
    note = read_note(author.folder / "template.img", package)
    assert (note.slot, dict(note.requires)) == ("m4-1/model", {"telemetry-app": ">=2.1"})
    image = verify_package(package, author.catalog.package_keys, kind=ImageKind.MODEL)
    check_payload(image)
    card = parse_model_payload(image.payload).card
    assert (card.kind, card.measured.arena_bytes, card.golden is not None) == (ModelKind.ANOMALY_TEMPLATE, 3464, True)
    assert card.measured.flash_bytes == 4096
    shown = CliRunner().invoke(make_app(["model"]), ["model", "show", "template.img"])
    assert "normal, anomaly, learning" in shown.output
    _, vectors = load_golden(author.folder / "golden.json", author.catalog)
    outcome = run_golden(core_with(package, author), vectors)
    assert outcome.passed, outcome.detail


def test_template_of_another_machine_fails_the_golden_vectors(author: Author) -> None:
    """On the host, before it is signed; and on a device, if it got there."""
    author.write(prior="")
    assert author.run("template", "pack", "template.yaml", "--core", "m4-1", "--out", "bare.img").exit_code == 0
    author.write()
    author.golden()
    author.save("healthy", synthetic_machine(9).windows(np.random.default_rng(9), 150))
    refused = author.pack()
    assert isinstance(refused.exception, GoldenVectorsFailedError)
    assert "expected at most 0.15 off" in str(refused.exception)
    _, vectors = load_golden(author.folder / "golden.json", author.catalog)
    outcome = run_golden(core_with((author.folder / "bare.img").read_bytes(), author), vectors)
    assert (outcome.passed, outcome.cause) == (False, Cause.GOLDEN_VECTORS)
    assert not note_path(author.folder / "template.img").exists()


def test_windows_that_mean_nothing_are_refused(author: Author) -> None:
    """Normal ones that are none, no prior knowledge at all, another shape, no array."""
    found = author.golden(normal="faulty.npy")
    assert isinstance(found.exception, UnclearWindowError)
    assert "faulty-0: expected a similarity above 50 % by more than 15%" in str(found.exception)
    found = author.golden(anomaly="normal.npy")
    assert isinstance(found.exception, UnclearWindowError)
    author.write(prior="")
    assert isinstance(author.golden().exception, NoPriorError)
    np.save(author.folder / "short.npy", np.zeros((3, 255), np.float32))
    author.write(prior="short.npy")
    found = author.golden()
    assert isinstance(found.exception, PackageFileError)
    assert "expected float32 windows of shape (count, 256)" in str(found.exception)
    (author.folder / "short.npy").write_bytes(b"PK\x03\x04")
    assert isinstance(author.golden().exception, PackageFileError)


def test_file_of_a_template_is_read_strictly(author: Author) -> None:
    """No mapping, a camera, a misspelt key, more RAM than there is, too few windows."""
    (author.folder / "template.yaml").write_text("- {[")
    assert isinstance(author.pack().exception, TemplateFileError)
    author.write(sensor="camera")
    assert "expected one with a signal, found camera" in str(author.pack().exception)
    author.write(warm_up=3)
    assert "warm_up: Extra inputs are not permitted" in str(author.pack().exception)
    author.write(layout={**FILE["layout"], "window_samples": 512}, prior="")  # type: ignore[dict-item]  # a mapping
    assert "expected at most 4096 bytes of RAM, found 5512" in str(author.pack().exception)
    author.write()
    author.save("normal", synthetic_machine(4).windows(np.random.default_rng(1), 2))
    result = author.golden()
    assert "expected at least 3 windows, found 2" in str(result.exception)
