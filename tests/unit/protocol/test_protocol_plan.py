"""A plan says what it means, or an error says where it does not."""

import json
from datetime import timedelta
from typing import Any

import pytest

from protocol.document import DocumentError, canonical_json, parse_document
from protocol.plan import PRESETS, EvidenceGates, HoldOut, Plan, ThresholdGates, merge_preset

STAGES = [{"count": 5}, {"percent": 10, "soak": "2h"}, {"percent": 100}]


def parse(content: dict[str, Any]) -> Plan:
    return parse_document(json.dumps(content).encode(), Plan)


def test_plan_of_stages_alone_stands_on_evidence() -> None:
    """What is left out is safe: evidence, an error budget of a percent, the rule for small stages."""
    plan = parse({"stages": STAGES})
    assert isinstance(plan.gates, EvidenceGates)
    assert (plan.gates.alpha, plan.gates.small_stage_rule, plan.stages[1].soak) == (0.01, True, timedelta(hours=2))
    assert plan.pace.per_minute is None


def test_gates_on_health_are_a_plan() -> None:
    """Beside those on failures, each with what it leaves out."""
    control = [{"events": ["crash", "drift", "offline"]}, {"name": "slow", "events": ["slow"], "slow_ms": 40}]
    means = [{"name": "sure", "metric": "confidence", "core": "m4-0", "margin": 0.05}]
    plan = parse({"stages": STAGES, "gates": {"kind": "evidence", "control": control, "means": means}})
    assert isinstance(plan.gates, EvidenceGates)
    assert [gate.tolerated for gate in plan.gates.control] == [1.5, 1.5]
    assert plan.gates.means[0].higher_is_worse is None


def test_thresholds_of_other_servers_are_a_plan() -> None:
    """The same form, so that the same engine runs them."""
    plan = parse({"stages": STAGES, "gates": {"kind": "thresholds", "success_percent": 80, "error_percent": 10}})
    assert isinstance(plan.gates, ThresholdGates)
    assert plan.gates.error_percent == 10


def test_plan_goes_to_a_database_and_back() -> None:
    """Equal plans have equal bytes."""
    plan = parse({"stages": STAGES, "deadline": "14d", "pace": {"per_minute": 10, "growth": 2, "most_per_minute": 90}})
    assert parse_document(canonical_json(plan), Plan) == plan


def test_retries_are_bounded_and_of_causes_that_may_pass() -> None:
    """Left out, a failed device is not given the release again."""
    assert parse({"stages": STAGES}).retries is None
    retries = parse({"stages": STAGES, "retries": {"most": 1, "pause": "5m", "causes": ["flash"]}}).retries
    assert retries is not None
    assert (retries.most, retries.pause, retries.causes) == (1, timedelta(minutes=5), ("flash",))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, "stages: Field required"),
        ({"stages": []}, "stages: Tuple should have at least 1 item"),
        ({"stages": [{}]}, r"stages\.0: Value error, expected either a count or a percent, found both or none"),
        ({"stages": [{"count": 1, "percent": 1}]}, "expected either a count or a percent"),
        ({"stages": [{"count": 5}, {"count": 5}]}, r"stages\.1: expected one that reaches further"),
        ({"stages": [{"percent": 50}, {"percent": 5}]}, r"stages\.1: expected one that reaches further"),
        ({"stages": STAGES, "speed": 5}, "speed: Extra inputs are not permitted"),
        ({"stages": STAGES, "version": 2}, "version"),
        ({"stages": STAGES, "device_timeout": "0s"}, "device_timeout: expected above 0"),
        (
            {"stages": STAGES, "pace": {"growth": 2}},
            r"pace: Value error, growth and most_per_minute: expected per_minute",
        ),
        ({"stages": STAGES, "pace": {"most_per_minute": 2}}, "expected per_minute beside them"),
        (
            {"stages": STAGES, "pace": {"per_minute": 20, "most_per_minute": 10}},
            "most_per_minute: expected at least per_minute, 20, found 10",
        ),
        ({"stages": STAGES, "gates": {"kind": "luck"}}, "gates"),
        ({"stages": STAGES, "gates": {"kind": "evidence", "alpha": 0}}, r"gates\.evidence\.alpha"),
        (
            {"stages": STAGES, "gates": {"kind": "evidence", "failures": [{"acceptable": 0.1, "worst": 0.1}]}},
            "worst: expected above the acceptable 0.1, found 0.1",
        ),
        (
            {"stages": STAGES, "gates": {"kind": "evidence", "failures": [{}, {"causes": ["boot"]}]}},
            "gates: expected each name once",
        ),
        (
            {"stages": STAGES, "gates": {"kind": "evidence", "control": [{"name": "failures", "events": ["drift"]}]}},
            "gates: expected each name once",
        ),
        ({"stages": STAGES, "gates": {"kind": "evidence", "control": [{"events": []}]}}, "at least 1 item"),
        (
            {"stages": STAGES, "gates": {"kind": "evidence", "control": [{"events": ["slow"]}]}},
            "slow_ms: expected one beside the event slow, found none",
        ),
        (
            {"stages": STAGES, "gates": {"kind": "evidence", "control": [{"events": ["drift"], "slow_ms": 5}]}},
            "slow_ms: expected one beside the event slow, found one without it",
        ),
        (
            {"stages": STAGES, "gates": {"kind": "evidence", "control": [{"events": ["drift"], "tolerated": 1}]}},
            "greater than 1",
        ),
        (
            {
                "stages": STAGES,
                "gates": {"kind": "evidence", "means": [{"name": "m", "metric": "arena", "core": "a7", "margin": 1}]},
            },
            "expected a core that runs models",
        ),
        (
            {"stages": STAGES, "gates": {"kind": "evidence", "control": [{"events": ["drift"], "group_by": "site"}]}},
            r"control: Value error, group_by: expected in failures alone",
        ),
        (
            {"stages": STAGES, "gates": {"kind": "evidence", "means": [{"name": "m", "group_by": "site"}]}},
            r"means: Value error, group_by: expected in failures alone",
        ),
        ({"stages": STAGES, "gates": {"kind": "evidence", "control": 5}}, "control"),
        ({"stages": STAGES, "gates": {"kind": "evidence", "failures": [{"causes": ["luck"]}]}}, "causes"),
        ({"stages": STAGES, "retries": {"most": 11}}, "less than or equal to 10"),
        ({"stages": STAGES, "retries": {"causes": ["boot"]}}, "expected some of download, verify, flash"),
    ],
)
def test_plan_that_makes_no_rollout_is_refused(content: dict[str, Any], expected: str) -> None:
    """The error says where and what was expected."""
    with pytest.raises(DocumentError, match=expected):
        parse(content)


def test_count_and_percentage_compare_by_the_group_alone() -> None:
    """A hundred devices may be more or less than a percent."""
    assert len(parse({"stages": [{"count": 100}, {"percent": 1}, {"count": 100_000}]}).stages) == 3


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_a_plan(name: str) -> None:
    """Each stands by itself."""
    assert parse(merge_preset({"preset": name})).name == name


def test_file_says_only_what_differs_from_its_preset() -> None:
    """A key of the file takes the place of the preset's."""
    plan = parse(merge_preset({"preset": "careful", "stages": STAGES, "name": "mine"}))
    assert (plan.name, len(plan.stages), plan.roll_back) == ("mine", 3, True)
    assert merge_preset({"stages": STAGES}) == {"stages": STAGES}


@pytest.mark.parametrize("name", ["luck", 5, ["careful"]])
def test_unknown_preset_is_refused(name: object) -> None:
    """The error names those that there are."""
    with pytest.raises(ValueError, match="preset: expected one of careful, standard, emergency, found"):
        merge_preset({"preset": name})


def test_hold_out_needs_a_last_stage_of_all_others() -> None:
    """Or it would hold out those that the plan leaves out."""
    stages = [{"count": 1}, {"percent": 50}]
    with pytest.raises(DocumentError, match="hold_out: expected a last stage of 100 percent"):
        parse({"stages": stages, "hold_out": {"percent": 5}})
    plan = parse({"stages": [*stages, {"percent": 100}], "hold_out": {}})
    assert plan.hold_out == HoldOut(percent=5, soak=timedelta(days=1))
