"""`make fuzz`: coverage-guided fuzzing of everything that reads unverified bytes, by atheris, each for a bounded time.

    python tests/fuzz/run.py --seconds 60                    every target, as many at once as there are cores
    python tests/fuzz/run.py --seconds 600 evidence-claims   one target
    python tests/fuzz/run.py --again voucher-root crash-…    feed one input again, with the traceback

Inputs that reached new code are kept in build/fuzz/TARGET and are the start of the next run; what was found is beside
them as crash-…, timeout-… or oom-…. Exit code 1 if anything was found.
"""

import argparse
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "fuzz"
HARNESSES = (
    "fuzz_evidence",
    "fuzz_csr",
    "fuzz_voucher",
    "fuzz_messages",
    "fuzz_certificates",
    "fuzz_images",
    "fuzz_delta",
    "fuzz_learning",
    "fuzz_service",
)
OUR_CODE = ["protocol", "pki", "device_sim", "service"]
MAX_INPUT_BYTES = 8192
SECONDS_PER_INPUT = 10
MEMORY_MEGABYTES = 1024
GRACE_SECONDS = 120  # for imports, and for atheris to end on a busy machine
NOT_DONE = 1000  # no exit code
FINDINGS = ("crash-*", "timeout-*", "oom-*")


@dataclass(frozen=True, slots=True)
class Ended:
    """How the fuzzing of one target ended.

    Attributes:
        executions: how many inputs were fed.
        findings: files with inputs that broke it, and what else went wrong.
    """

    target: str
    executions: int
    findings: tuple[str, ...]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="names; every target if there is none")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at once")
    parser.add_argument("--again", action="store_true", help="TARGET FILE: feed a file's bytes once")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return fuzz(options.targets[0], seconds=options.seconds)
    if options.again:
        return feed_again(*options.targets)
    return run_all(options.targets or list(load()), seconds=options.seconds, jobs=options.jobs)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def load() -> dict[str, Any]:
    """Import every harness and return its targets by name."""
    modules = [importlib.import_module(f"tests.fuzz.{name}") for name in HARNESSES]
    return {target.name: target for module in modules for target in module.TARGETS}


def run_all(names: Sequence[str], *, seconds: int, jobs: int) -> int:
    """Fuzz targets, each in a process of its own, and print what came of it."""
    with ThreadPoolExecutor(jobs) as threads:
        ended = list(threads.map(lambda name: run_one(name, seconds=seconds), names))
    found = [finding for one in ended for finding in one.findings]
    say(f"{len(ended)} targets, {sum(one.executions for one in ended):,} executions, {len(found)} findings")
    return 1 if found else 0


def run_one(name: str, *, seconds: int) -> Ended:
    """Fuzz one target in a process of its own."""
    folder, corpus = OUT / name, OUT / name / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for path in _findings(folder):
        path.rename(corpus / path.name)  # what was found before is fed first, and found again if nobody mended it
    command = [sys.executable, "-m", "tests.fuzz.run", "--child", name, "--seconds", str(seconds)]
    with (folder / "log.txt").open("w+", encoding="utf-8", errors="replace") as log:
        try:
            code = subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=log, timeout=seconds + GRACE_SECONDS, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = NOT_DONE
        log.seek(0)
        text = log.read()
    found = tuple(str(path.relative_to(ROOT)) for path in _findings(folder))
    if code and not found:
        how = f"expected an end after {seconds} s, found none" if code == NOT_DONE else f"ended with {code}"
        found = (f"{folder.relative_to(ROOT)}/log.txt: {how}",)
    executions = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    ended = Ended(name, int(executions[1]) if executions else 0, found)
    say(f"{name:24} {ended.executions:>12,} executions  {' '.join(found) or 'nothing found'}")
    return ended


def _findings(folder: Path) -> list[Path]:
    return [path for pattern in FINDINGS for path in sorted(folder.glob(pattern))]


def fuzz(name: str, *, seconds: int) -> int:
    """Fuzz one target in this process; atheris ends it."""
    import atheris  # type: ignore[import-untyped]  # noqa: PLC0415 - no types; only the fuzzing process needs it

    with atheris.instrument_imports(include=OUR_CODE):
        target = load()[name]
    corpus = OUT / name / "corpus"
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    limits = {
        "max_total_time": seconds,
        "max_len": max(MAX_INPUT_BYTES, 2 * max(map(len, target.seeds))),
        "timeout": SECONDS_PER_INPUT,
        "rss_limit_mb": MEMORY_MEGABYTES,
        "print_final_stats": 1,
        "artifact_prefix": f"{OUT / name}/",
    }
    arguments = [sys.argv[0], *(f"-{key}={value}" for key, value in limits.items()), str(corpus)]
    atheris.Setup(arguments, lambda unverified: target.feed(unverified) and None)
    atheris.Fuzz()
    return 0


def feed_again(name: str, file: str) -> int:
    """Feed one file's bytes to a target; the traceback is the answer."""
    taken = load()[name].feed(Path(file).read_bytes())
    say(f"{name}: {'taken' if taken else 'refused'}")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
