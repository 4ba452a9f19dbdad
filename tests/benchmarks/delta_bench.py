"""Patch bytes of the person and keyword models, beside detools, bsdiff4 and zstd, after three kinds of retraining.

    python -m tests.benchmarks.delta_bench            JSON rows, as every benchmark
    python -m tests.benchmarks.delta_bench --table    the whole table, Markdown

Only weights change, not the FlatBuffer around them: the models' int8 and int32 buffers of at least 16 bytes. detools
publishes no wheel: it is built into build/detools, and left out, with a word, where that fails.
"""

import hashlib
import json
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import bsdiff4
import numpy as np
import tflite  # type: ignore[import-untyped]  # the package has no annotations
import zstandard

from protocol.delta import DECODER_BYTES
from protocol.geometry import KIB
from service.adapters.patch_process import applied, make_patch
from tinyml.fetch import fetch_model

MODELS = {"person": "person-detection", "keyword": "keyword-spotting"}
LAST_LAYER_BYTES = {"person": 64 * KIB, "keyword": 16 * KIB}  # the keyword model is smaller than 64 KiB
MIN_WEIGHTS = 16  # bytes of a buffer that holds weights
SPARSE = 0.02
DETOOLS = Path("build/detools")
BUILD_SECONDS = 300
HEATSHRINK = ("--heatshrink-window-sz2", "12", "--heatshrink-lookahead-sz2", "5")  # 4 KiB of window, its best here


@dataclass(frozen=True, slots=True)
class Case:
    """One model before and after."""

    model: str
    change: str
    old: bytes
    new: bytes

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.model}, {self.change}"


@dataclass(frozen=True, slots=True)
class Result:
    """Patch bytes by tool, and what ours took.

    Attributes:
        zstd_full: the new model by zstd -19, bytes.
    """

    case: Case
    sizes: Mapping[str, int | None]
    zstd_full: int
    make_seconds: float
    apply_seconds: float

    def percent(self, tool: str) -> float | None:
        """A patch in percent of the new model as it is."""
        size = self.sizes[tool]
        return None if size is None else 100 * size / len(self.case.new)


def weights_of(model: bytes) -> np.ndarray:
    """Return the positions of all bytes of weights."""
    root = tflite.Model.GetRootAsModel(model, 0)
    base = np.frombuffer(model, np.uint8).__array_interface__["data"][0]
    spans = []
    for index in range(root.BuffersLength()):
        buffer = root.Buffers(index)
        if buffer is not None and buffer.DataLength() >= MIN_WEIGHTS:
            start = buffer.DataAsNumpy().__array_interface__["data"][0] - base
            spans.append(np.arange(start, start + buffer.DataLength()))
    return np.sort(np.concatenate(spans))


def cases() -> Iterator[Case]:
    """Yield every model with every change; the same in every run."""
    for name, asset in MODELS.items():
        old = fetch_model(asset).read_bytes()
        for change, changed in _changes(old, last_layer=LAST_LAYER_BYTES[name]).items():
            yield Case(name, change, old, changed)


def _changes(old: bytes, *, last_layer: int) -> dict[str, bytes]:
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(old).digest()[:8], "big"))
    image, weights = np.frombuffer(old, np.int8), weights_of(old)
    sparse, little, last = image.copy(), image.copy(), image.copy()
    chosen = draw.choice(weights, int(len(weights) * SPARSE), replace=False)
    sparse[chosen] = draw.integers(-128, 128, len(chosen), dtype=np.int8)
    steps = draw.choice([-1, 1], len(weights))
    little[weights] = np.clip(image[weights].astype(np.int16) + steps, -128, 127)
    end = weights[-last_layer:]
    last[end] = np.clip(draw.normal(0, 30, len(end)), -127, 127)
    names = ("2 % of weights", "all weights ±1", f"last {last_layer // KIB} KiB anew")
    return dict(zip(names, (each.tobytes() for each in (sparse, little, last)), strict=True))


def detools() -> Path | None:
    """Return detools' command, built if it is not there; None where it cannot be built."""
    command = DETOOLS / "bin" / "detools"
    if command.exists():
        return command
    try:
        venv.create(DETOOLS, with_pip=True)
        pip = [str(DETOOLS / "bin" / "python"), "-m", "pip", "install", "--quiet", "detools==0.53.0"]
        subprocess.run(pip, check=True, timeout=BUILD_SECONDS, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"detools: expected to build it from source, left out: {error}", file=sys.stderr)
        return None
    return command


def detools_patch(command: Path | None, case: Case, *options: str) -> int | None:
    """Return the bytes of a sequential patch by detools."""
    if command is None:
        return None
    with TemporaryDirectory() as folder:
        old, new, patch = (Path(folder) / name for name in ("old", "new", "patch"))
        old.write_bytes(case.old)
        new.write_bytes(case.new)
        words = [str(command), "create_patch", "-t", "sequential", *options, str(old), str(new), str(patch)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return patch.stat().st_size


def zstd_patch_from(case: Case) -> int:
    """Return the bytes of what `zstd --ultra -22 --long --patch-from` writes."""
    dictionary = zstandard.ZstdCompressionDict(case.old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    parameters = zstandard.ZstdCompressionParameters.from_level(22, window_log=20, enable_ldm=True)
    return len(zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary).compress(case.new))


def measure(case: Case, command: Path | None) -> Result:
    """Make every tool's patch."""
    patch, make_seconds = _timed(lambda: make_patch(case.old, case.new))
    made, apply_seconds = _timed(lambda: applied(patch, case.old))
    if made != case.new:
        raise AssertionError(f"{case.name}: expected the new model, found another")
    sizes = {
        "ours": len(patch),
        "detools heatshrink": detools_patch(command, case, "-c", "heatshrink"),
        "detools heatshrink 4 KiB": detools_patch(command, case, "-c", "heatshrink", *HEATSHRINK),
        "bsdiff4": len(bsdiff4.diff(case.old, case.new)),
        "zstd patch-from": zstd_patch_from(case),
    }
    full = len(zstandard.ZstdCompressor(level=19).compress(case.new))
    return Result(case, sizes, full, make_seconds, apply_seconds)


def _timed(work: Callable[[], bytes]) -> tuple[bytes, float]:
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin


def table(results: list[Result]) -> str:
    """Return the Markdown table: percent of the full image raw, and by zstd -19."""
    tools = list(results[0].sizes)
    lines = [
        f"| model, change | raw bytes | zstd -19 | {' | '.join(tools)} | make s | apply s |",
        "|---|---|---|" + "---|" * len(tools) + "---|---|",
    ]
    for result in results:
        cells = [_cell(result, tool) for tool in tools]
        lines.append(
            f"| {result.case.name} | {len(result.case.new):,} | {result.zstd_full:,} | {' | '.join(cells)} "
            f"| {result.make_seconds:.1f} | {result.apply_seconds:.2f} |"
        )
    lines.append(f"\nOur decoder's memory: {DECODER_BYTES:,} bytes, contexts, registers and buffers.")
    return "\n".join(lines)


def _cell(result: Result, tool: str) -> str:
    size, percent = result.sizes[tool], result.percent(tool)
    return "–" if size is None else f"{percent:.1f} / {100 * size / result.zstd_full:.1f}"


def row(result: Result) -> dict[str, object]:
    """Return one row for `make bench`: the peer is detools with heatshrink."""
    ours, peer = result.percent("ours"), result.percent("detools heatshrink 4 KiB")
    others = ", ".join(f"{tool} {result.percent(tool):.1f}" for tool in ("bsdiff4", "zstd patch-from"))
    return {
        "name": f"patch: {result.case.name}",
        "ours": ours,
        "peer": peer,
        "ratio": None if peer is None or ours is None else ours / peer,
        "unit": "% of full image",
        "note": f"peer: detools sequential, heatshrink; {others}; made in {result.make_seconds:.1f} s",
    }


def main() -> None:
    """Print the rows or the table."""
    command = detools()
    results = [measure(case, command) for case in cases()]
    print(table(results) if "--table" in sys.argv[1:] else json.dumps([row(result) for result in results]))


if __name__ == "__main__":
    main()
