"""A model card in words: where the model may run, what goes in and what comes out, and how far its figures reach."""

from collections.abc import Mapping

from protocol.geometry import HOME_BYTES, KIB, SYSRAM_BYTES, TCM_BYTES, ImageKind, slot_for
from protocol.model import InputContract, ModelCard, ModelKind, OutputContract, PredictedLatency, Quantised

_UNSAID = "not said"
_KINDS = {
    ModelKind.TFLITE: "a .tflite model, interpreted by TFLM",
    ModelKind.ANOMALY_TEMPLATE: "a learning template: each device learns its own normal by it",
}


def explain_card(card: ModelCard) -> Mapping[str, object]:
    """Return what a card says, by subject, in the order in which it decides."""
    return {
        "model": f"{card.name}@{card.version}: {card.description or _UNSAID}",
        "component": f"{card.component_id}; stays the same from version to version",
        "kind": _KINDS[card.kind],
        "core": f"{card.core}, and no other",
        "input": _input(card.input),
        "output": _output(card.output),
        "labels": ", ".join(card.labels),
        "flash": _flash(card),
        "arena": _arena(card.measured.arena_bytes),
        "work": f"{card.measured.macs:,} multiply-accumulates for one inference",
        "latency": [_latency(each) for each in card.latency] or "not predicted",
        "golden vectors": _golden(card),
        "evaluation": [f"{e.metric} {e.value:g} on {e.samples:,} samples of {e.dataset}" for e in card.evaluation]
        or _UNSAID,
        "trained on": card.trained_on or _UNSAID,
        "evaluated on": card.evaluated_on or _UNSAID,
        "requires": [f"{name} {versions}" for name, versions in sorted(card.requires.items())]
        or "nothing of its neighbours",
        "licence": "; ".join(filter(None, (card.licence, card.licence_notes))) or _UNSAID,
    }


def _input(contract: InputContract) -> str:
    return (
        f"{_tensor(contract.dtype, contract.shape)}: each sample × {contract.scale:g} {_plus(contract.offset)}"
        f"{_quantised(contract.quantised)}; a sample: {contract.meaning or _UNSAID}"
    )


def _output(contract: OutputContract | None) -> str:
    if contract is None:
        return "one value for each label; the card is from before outputs were described"
    meaning = contract.meaning or _UNSAID
    return f"{_tensor(contract.dtype, contract.shape)}{_quantised(contract.quantised)}; a value: {meaning}"


def _tensor(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{dtype} of shape {' × '.join(map(str, shape))}"


def _quantised(quantised: Quantised | None) -> str:
    if quantised is None:
        return ""
    return f"; stored q stands for {quantised.scale:g} × (q {_plus(-quantised.zero_point)})"


def _plus(number: float) -> str:
    return f"{'−' if number < 0 else '+'} {abs(number):g}"


def _flash(card: ModelCard) -> str:
    slot, measured = slot_for(card.core, ImageKind.MODEL), card.measured
    room = "" if slot is None else f" of the {HOME_BYTES[slot] // KIB} KiB that {card.core} has for a model"
    taken = f"{measured.flash_bytes // KIB} KiB" if measured.flash_bytes else "package not measured"
    return f"{taken}{room}; the model alone {measured.model_bytes:,} bytes"


def _arena(arena_bytes: int) -> str:
    regions = [name for name, size in (("SYSRAM", SYSRAM_BYTES), ("TCM", TCM_BYTES)) if arena_bytes <= size]
    places = " or ".join(regions) or "no memory of a core"
    return f"{arena_bytes:,} bytes at least, in one piece: fits {places}"


def _latency(latency: PredictedLatency) -> str:
    if latency.error_share < 1:
        reach = f"±{latency.error_share:.0%}"
    else:
        reach = f"a factor of {1 + latency.error_share:g} or worse either way"
    return f"{latency.milliseconds:g} ms with {latency.profile}, {reach}: modelled, not measured"


def _golden(card: ModelCard) -> str:
    if card.golden is None:
        return "none when it was packed; no device takes it without"
    whose = "its component" if card.golden.component_id == card.component_id else card.golden.component_id
    return f"answered {card.golden.vectors} of {whose} on the host, SHA-256 {card.golden.sha256[:16]}…"
