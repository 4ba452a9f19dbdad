"""`rollout plan` and `rollout start --plan`: a plan is checked on the operator's machine before anything is sent."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from protocol.document import parse_document
from protocol.plan import PRESETS, Plan
from service.cli.errors import BadArgumentError
from service.cli.plans import read_plan
from service.cli.rollouts import app

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples" / "plans"
RUNNER = CliRunner()


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_example_is_a_plan(path: Path) -> None:
    """Every example of the documentation is understood whole."""
    assert read_plan(path).stages


def test_careful_example_is_the_preset() -> None:
    """The example that explains each key says what the preset says."""
    found = RUNNER.invoke(app, ["plan", "--preset", "careful", "--json"])
    preset = parse_document(found.stdout.encode(), Plan)
    assert read_plan(EXAMPLES / "careful.yaml") == preset


@pytest.mark.parametrize("name", PRESETS)
def test_shown_preset_is_a_plan_again(name: str, tmp_path: Path) -> None:
    """What is printed can be saved, changed and used."""
    shown = RUNNER.invoke(app, ["plan", "--preset", name])
    (tmp_path / "plan.yaml").write_text(shown.stdout)
    assert read_plan(tmp_path / "plan.yaml").name == name


def test_schema_is_printed() -> None:
    """For editors that check while one types."""
    schema = json.loads(RUNNER.invoke(app, ["plan", "--schema"]).stdout)
    assert set(schema["properties"]) >= {"stages", "pace", "gates", "roll_back"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "stages: Field required"),
        (b"- 1", "expected keys, found list"),
        (b"stages: &a [{soak: 1h}, *a]", "expected no alias"),
        (b"a: [", "expected YAML"),
        (b"\xff\xfe\x00", "expected"),
        (b"preset: reckless", "preset: expected one of careful, standard, emergency, found 'reckless'"),
        (b"preset: careful\nspeed: 9", "speed: Extra inputs are not permitted"),
        (b"stages: [{count: 5}, {count: 5}]", r"stages\.1: expected one that reaches further"),
    ],
)
def test_file_that_is_no_plan_is_refused(content: bytes, expected: str, tmp_path: Path) -> None:
    """The error names the file, and what is wrong where."""
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(BadArgumentError, match=expected) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


def test_missing_file_is_said() -> None:
    """With its name."""
    with pytest.raises(BadArgumentError, match=r"nowhere\.yaml: expected a plan, found No such file"):
        read_plan(Path("nowhere.yaml"))


@pytest.mark.parametrize(
    "words",
    [
        ["--plan", "p.yaml", "--preset", "careful"],
        ["--preset", "careful", "--stages", "1,100%"],
        ["--plan", "p.yaml", "--error-percent", "5"],
    ],
)
def test_two_ways_at_once_are_refused(words: list[str], tmp_path: Path) -> None:
    """A plan says everything: thresholds beside it would be read by nobody."""
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"preset": "careful"}))
    found = RUNNER.invoke(app, ["start", "r", "--group", "g", *words], catch_exceptions=True)
    assert isinstance(found.exception, BadArgumentError)
    assert "expected one of --plan, --preset, and stages with thresholds" in str(found.exception)


@pytest.mark.parametrize("words", [[], ["--schema", "--preset", "careful"]])
def test_plan_command_wants_one_thing(words: list[str]) -> None:
    """A file, a preset, or the schema."""
    found = RUNNER.invoke(app, ["plan", *words])
    assert isinstance(found.exception, BadArgumentError)


DRIFT = {"name": "drift", "events": ["drift"]}
LATENCY = {"name": "latency", "metric": "latency", "core": "m4-0", "margin": 2.0}
AT_THE_HARBOUR = {"count": 20, "where": {"attribute": "site", "is": "harbour"}}
ALL = {"percent": 100}


@pytest.mark.parametrize(
    ("stages", "gates", "warnings"),
    [
        (
            [ALL],
            {"failures": [{"group_by": "site"}], "control": [DRIFT], "means": [LATENCY]},
            ["for drift, latency each"],
        ),
        ([ALL], {"failures": [{"group_by": "site"}, {"name": "boot", "causes": ["boot"]}]}, ["for boot each of them"]),
        ([AT_THE_HARBOUR, ALL], {"control": [DRIFT]}, ["stage 1 holds chosen devices"]),
        ([ALL], {"failures": [{"group_by": "site"}]}, []),
        ([AT_THE_HARBOUR, ALL], {}, []),
        ([ALL], {"control": [DRIFT]}, []),
    ],
    ids=["sites", "one-of-two", "chosen", "by-site-alone", "nothing-compared", "plain"],
)
def test_what_the_error_budget_does_not_cover_is_said(
    stages: list[object], gates: dict[str, object], warnings: list[str], tmp_path: Path
) -> None:
    """On stderr, so that what is printed stays a plan."""
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({"stages": stages, "gates": {"kind": "evidence", **gates}}))
    found = RUNNER.invoke(app, ["plan", str(file), "--json"])
    assert parse_document(found.stdout.encode(), Plan) == read_plan(file)
    assert found.stderr.count("warning: ") == len(warnings)
    assert all(warning in found.stderr for warning in warnings)
