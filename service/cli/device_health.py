"""`tinyfleet device health`: what a device said last of its models, and their own past."""

from typing import Annotated

import typer

from service.cli.client import JsonObject, connect
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import moment, print_json, print_table, short

_LAST = ("core", "model", "until", "frames", "errors", "resets", "confidence", "ms mean", "ms most", "arena", "classes")
_PAST = ("core", "of", "windows", "confidence", "ms mean", "arena", "classes")


def health(
    device: Annotated[
        str, typer.Argument(help="Device id, or a unique beginning of at least 8 digits.", callback=one_id)
    ],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show what a device said last of its models, and what they were like before."""
    with connect(operator_dir) as client:
        answer = client.get(f"/devices/{device}/health")
    if as_json:
        print_json(answer)
        return
    print_table(f"Models of {short(answer['device_id'])}", _LAST, map(_last_row, answer["cores"]))
    print_table("Their own past", _PAST, [row for core in answer["cores"] for row in _past_rows(core)])


def _last_row(core: JsonObject) -> tuple[object, ...]:
    last = core["last"]
    return (
        last["core"],
        short(last["model_sha256"]),
        moment(last["until"]),
        last["frames"],
        _counts(last["errors"]),
        last["resets"],
        f"{last['confidence_mean']:.3f}",
        f"{last['latency_mean_ms']:.4g}",
        f"{last['latency_max_ms']:.4g}",
        last["arena_bytes"],
        _counts(last["classes"]),
    )


def _past_rows(core: JsonObject) -> list[tuple[object, ...]]:
    pasts = (("this model", core["past"]), ("the model before", core["before"]))
    return [
        (
            core["last"]["core"],
            name,
            past["windows"],
            f"{past['confidence']:.3f}",
            f"{past['latency_ms']:.4g}",
            f"{past['arena_bytes']:.0f}",
            ", ".join(f"{label} {share:.0%}" for label, share in _largest(past["classes"])),
        )
        for name, past in pasts
        if past is not None
    ]


def _counts(counts: JsonObject) -> str:
    return ", ".join(f"{label} {count}" for label, count in _largest(counts))


def _largest(values: JsonObject) -> list[tuple[str, float]]:
    return sorted(values.items(), key=lambda pair: -pair[1])[:5]
