"""The demo's summary: what the service's API and the devices' own events say, side by side."""

import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from service.cli.client import JsonObject
from service.cli.demo_events import devices_with, link_counts
from service.cli.demo_releases import BAD_RELEASE, GOOD_RELEASE, MODELS, find_rollout
from service.cli.demo_run import DemoRun
from service.cli.output import table

Summary = dict[str, Any]


def summarise(run: DemoRun) -> Summary:
    """Sum the demo up; the devices have stopped, the service still runs."""
    good, bad = find_rollout(run, GOOD_RELEASE) or {}, find_rollout(run, BAD_RELEASE) or {}
    sent, acknowledged = link_counts(run.events.all())
    summary: Summary = {
        "devices": run.record.devices,
        "attested": sum(device["state"] == "active" for device in run.client.items("/devices")),
        "refused": len({result["device_id"] for result in run.client.items("/attestations", result="refused")}),
        "stopped_in_boot": len(devices_with(run.events.all(), "boot-stopped")),
        "rollout": _rollout(good, "succeeded", "failed") | {"groups": len(good.get("stages", []))},
        "bad_rollout": _rollout(bad, "exposed", "reverted"),
        "telemetry": {
            "sent": sent,
            "acknowledged": acknowledged,
            "stored": run.client.get("/telemetry/count")["count"],
        },
        "inference": _inference(run),
        "seconds": round(run.seconds, 1),
    }
    if run.inference_sample:
        summary["inference_sample"] = run.inference_sample
    return summary


def _rollout(rollout: JsonObject, *totals: str) -> Summary:
    return {"state": rollout.get("state"), **{name: rollout.get("totals", {}).get(name) for name in totals}}


def _inference(run: DemoRun) -> Summary:
    records = run.results.read(run.client)
    return {model.core: _core(record for record in records if record["core"] == model.core) for model in MODELS}


def _core(records: Iterator[JsonObject]) -> Summary:
    """Sum one core up; the latency is that of the model that ran most."""
    answers = [record for record in records if not record["error"]]
    models = Counter(record["model"] for record in answers).most_common(1)
    model = models[0][0] if models else None
    latencies = [record["m4_ms"] for record in answers if record["model"] == model]
    return {
        "model": model,
        "events": len(answers),
        "p50_ms_m4": round(statistics.median(latencies), 1) if latencies else None,
    }


def summary_table(summary: Summary) -> Table:
    """Show a summary to people."""
    rollout, bad, telemetry = summary["rollout"], summary["bad_rollout"], summary["telemetry"]
    counts = f"{rollout['succeeded']} succeeded, {rollout['failed']} failed"
    rows: list[tuple[str, str]] = [
        ("devices", f"{summary['devices']} made and claimed, {summary['attested']} attested"),
        ("tampered image", f"{summary['stopped_in_boot']} stopped in its boot"),
        ("unlisted image", f"{summary['refused']} refused by attestation"),
        ("rollout", f"{rollout['state']} in {rollout['groups']} stages: {counts}"),
        ("bad release", f"{bad['state']} by itself: {bad['exposed']} exposed, {bad['reverted']} reverted"),
        (
            "telemetry",
            f"{telemetry['sent']} sent, {telemetry['acknowledged']} acknowledged, {telemetry['stored']} stored",
        ),
    ]
    rows += [(core, _core_text(facts)) for core, facts in summary["inference"].items()]
    if "inference_sample" in summary:
        rows.append(("sample", f"inference ran on {summary['inference_sample']} of the devices"))
    rows.append(("time", f"{summary['seconds']} s"))
    return table("Summary", ("what", "result"), rows)


def _core_text(facts: Summary) -> str:
    return f"{facts['model']}: {facts['events']} results, median {facts['p50_ms_m4']} ms on the Cortex-M4 (modelled)"
