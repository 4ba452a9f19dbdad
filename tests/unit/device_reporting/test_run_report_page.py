"""The page stands by itself, escapes what it shows, and refuses what is no record."""

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from typing_extensions import override

from device_sim.cli_report import RecordError, read_record, write_page, write_record
from device_sim.reporting.live import render, showing
from device_sim.reporting.page import render_page
from device_sim.reporting.plots import failures_plot
from device_sim.reporting.record import DeviceState, FleetRecord, RolloutMoment, RunReport, TimelinePoint, WireOfOne

REPORT = RunReport(
    description="canary <script>alert(1)</script>",
    started_at=datetime(2026, 1, 5, tzinfo=UTC),
    seconds=7200,
    devices=3,
    events=40,
    fleets=(FleetRecord(name="<b>roof</b>", devices=3, states={DeviceState.ONLINE: 3}, failures={"boot": 1}),),
    timeline=(
        TimelinePoint(at=0, states={DeviceState.OFF: 3}),
        TimelinePoint(at=7200, states={DeviceState.ONLINE: 3}),
    ),
    rollouts=(RolloutMoment(at=60, rollout="r1", state="halted"),),
)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.links: list[str] = []

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value and value[0] != "#"]


def test_page_needs_nothing_beside_it() -> None:
    """Four plots, no script, no link to elsewhere, no markup from a record's texts."""
    page, tags = render_page(REPORT), _Tags()
    tags.feed(page)
    assert tags.seen.count("svg") == 4
    assert "script" not in tags.seen
    assert "b" not in tags.seen
    assert tags.links == []
    assert "canary &lt;script&gt;" in page
    assert "&lt;b&gt;roof" in page


@pytest.mark.parametrize("text", ["$x^{$", r"\$\frac{$", "_hidden", "$", "long " * 1000])
def test_any_text_can_be_a_cause_or_a_name(text: str) -> None:
    """No text is a formula, and none pushes the plot from the page."""
    fleet = REPORT.fleets[0].model_copy(update={"name": text, "failures": {text: 2}})
    assert render_page(REPORT.model_copy(update={"fleets": (fleet,)})).count("<svg") == 4


def test_most_frequent_causes_are_drawn() -> None:
    """Of thousands, twenty; the record has the rest."""
    fleet = REPORT.fleets[0].model_copy(update={"failures": {f"cause-{n}": n for n in range(1, 3000)}})
    drawn = failures_plot(REPORT.model_copy(update={"fleets": (fleet,)}))
    assert "<!-- cause-2980 -->" in drawn
    assert "<!-- cause-2979 -->" not in drawn


def test_page_tells_the_bytes_of_single_devices() -> None:
    """Beside the mean: a device that eats its plan is not hidden in it."""
    fleet = REPORT.fleets[0].model_copy(update={"wire_of_one": WireOfOne(median=2048, p95=4096, most=1024 * 777)})
    page = render_page(REPORT.model_copy(update={"fleets": (fleet,)}))
    assert "<td>2.0</td><td>4.0</td><td>777.0</td>" in page


def test_run_without_devices_has_a_page() -> None:
    """A scenario that was stopped before its first event can be drawn, too."""
    empty = RunReport(
        started_at=datetime(2026, 1, 5, tzinfo=UTC), seconds=0, devices=0, events=0, fleets=(), timeline=()
    )
    assert "interrupted" in render_page(empty.model_copy(update={"ended": False}))


def test_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What `--json` wrote is what `report` draws."""
    write_record(REPORT, tmp_path / "run.json")
    assert read_record(tmp_path / "run.json") == REPORT
    write_page(tmp_path / "run.json", tmp_path / "run.html")
    assert (tmp_path / "run.html").read_text().startswith("<!doctype html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.json"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "Invalid JSON"),
        (b"{}", "started_at: Field required"),
        (b'{"version": 2}', "version"),
        (b"\xff", "JSON"),
    ],
)
def test_file_that_is_no_record_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    """The error names the file and what is wrong; no page is left."""
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RecordError, match=expected):
        write_page(tmp_path / "run.json", tmp_path / "run.html")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("devices", 2**63, "devices: Input should be less than"),
        ("seconds", float("inf"), "seconds: Input should be a finite number"),
        ("timeline", [{"at": float("nan"), "states": {}}], "timeline.0.at: Input should be a finite number"),
        ("fleets", [{"name": "f", "devices": 1, "energy": {"radio": 1e308}}], "fleets.0.energy.radio: Input should be"),
    ],
)
def test_number_that_no_run_has_is_refused(tmp_path: Path, key: str, value: object, expected: str) -> None:
    """What cannot be drawn is said to be no record."""
    content = REPORT.model_dump(mode="json") | {key: value}
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(RecordError, match=expected):
        read_record(tmp_path / "run.json")


def test_missing_record_is_said() -> None:
    """A path that leads nowhere is an error with its name."""
    with pytest.raises(RecordError, match=r"nowhere\.json: expected the record of a run, found No such file"):
        read_record(Path("nowhere.json"))


def test_live_view_shows_fleets_and_causes() -> None:
    """A row per fleet with its failures by cause, and the last moments."""
    console = Console(width=220, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(render(REPORT))
    shown = captured.get()
    assert "<b>roof</b>" in shown
    assert "1 (boot 1)" in shown
    assert "rollout r1: halted" in shown


def test_live_view_is_silent_without_a_terminal() -> None:
    """Where stderr is a file, nothing is drawn into it."""
    console = Console(force_terminal=False)
    with console.capture() as captured, showing(lambda: REPORT, console):
        pass
    assert captured.get() == ""


def test_live_view_ends_with_the_run() -> None:
    """On a terminal the last frame is the last record, and no thread stays."""
    console = Console(force_terminal=True, width=200)
    with console.capture() as captured, showing(lambda: REPORT, console):
        pass
    assert "roof" in captured.get()
