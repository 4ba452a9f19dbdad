"""What a plan may say of when a device gets its release, and what the device may say back."""

from datetime import time, timedelta
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from protocol.document import DocumentError, canonical_json, parse_document
from protocol.messages import ActionReport, ActionState
from protocol.plan import Deferral, Disruption, Plan, Weekday, Window

GUID = "11111111-1111-4111-8111-111111111111"
FILE = """
stages: [{percent: 100}]
maintenance:
  - {days: [sat, sun], from: "02:00", to: "05:00"}
  - {from: "23:30", to: "00:30"}
time_zone: Europe/Berlin
disruption: {group_by: site, max_unavailable: "10%"}
deferral: {most: 2, longest: 12h}
forced: true
"""


def parsed(**keys: Any) -> Plan:
    return Plan.model_validate({"stages": [{"percent": 100}], **keys})


def test_plan_says_when() -> None:
    """Windows are `from` and `to` in the file; without days they are of every day."""
    plan = Plan.model_validate(yaml.safe_load(FILE))
    assert plan.maintenance == (
        Window(days=(Weekday.SATURDAY, Weekday.SUNDAY), start=time(2), end=time(5)),
        Window(start=time(23, 30), end=time(0, 30)),
    )
    assert plan.disruption == Disruption(group_by="site", max_unavailable="10%")
    assert plan.deferral == Deferral(most=2, longest=timedelta(hours=12))
    assert plan.forced
    assert plan.time_zone == "Europe/Berlin"


def test_times_go_to_a_database_and_back() -> None:
    """As they were written."""
    plan = Plan.model_validate(yaml.safe_load(FILE))
    written = canonical_json(plan)
    assert b'{"days":["sat","sun"],"from":"02:00","to":"05:00"}' in written
    assert parse_document(written, Plan) == plan


def test_plan_sets_no_time_by_itself() -> None:
    """Any time, no budget, no deferral."""
    plan = parsed()
    assert (plan.maintenance, plan.time_zone, plan.disruption, plan.deferral, plan.forced) == (
        (),
        "UTC",
        None,
        None,
        False,
    )
    assert Disruption(group_by="site").max_unavailable == 1


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"maintenance": [{"from": "2:00", "to": "05:00"}]}, "expected a time of day such as"),
        ({"maintenance": [{"from": "24:00", "to": "05:00"}]}, "found '24:00'"),
        ({"maintenance": [{"from": 200, "to": "05:00"}]}, "found '200'"),
        ({"maintenance": [{"from": "02:00"}]}, "to\n  Field required"),
        ({"maintenance": [{"days": ["caturday"], "from": "02:00", "to": "05:00"}]}, "days"),
        ({"maintenance": [{"days": ["sat", "sat"], "from": "02:00", "to": "05:00"}]}, "each day once, found sat, sat"),
        ({"maintenance": [{"from": "02:00", "to": "05:00"}] * 33}, "at most 32 items"),
        ({"time_zone": "Mars/Olympus"}, "expected an IANA time zone such as Europe/Berlin, found 'Mars/Olympus'"),
        ({"time_zone": "../passwd"}, "expected an IANA time zone"),
        ({"time_zone": ""}, "at least 1 character"),
        ({"disruption": {"group_by": "Site"}}, "group_by"),
        ({"disruption": {"group_by": "site", "max_unavailable": 0}}, "greater than or equal to 1"),
        ({"disruption": {"group_by": "site", "max_unavailable": "0%"}}, "found '0%'"),
        ({"disruption": {"group_by": "site", "max_unavailable": "101%"}}, "found '101%'"),
        ({"disruption": {"group_by": "site", "max_unavailable": 1.5}}, "found '1.5'"),
        ({"disruption": {"group_by": "site", "max_unavailable": True}}, "found 'True'"),
        ({"deferral": {"most": 0}}, "greater than or equal to 1"),
        ({"deferral": {"longest": "0s"}}, "longest: expected above 0"),
    ],
)
def test_times_that_make_no_sense_are_refused(keys: dict[str, Any], expected: str) -> None:
    """The error says what was expected and found."""
    with pytest.raises(ValidationError, match=expected):
        parsed(**keys)


def test_report_puts_an_update_off() -> None:
    """It is scheduled again then."""
    report = ActionReport(action_id=GUID, sequence=3, state=ActionState.SCHEDULED, defer_seconds=3600.0)
    assert parse_document(canonical_json(report), ActionReport) == report


@pytest.mark.parametrize(
    ("defer_seconds", "expected"),
    [(0, "greater than 0"), (-1, "greater than 0"), (1e9, "less than or equal"), (float("inf"), "less than or equal")],
)
def test_report_puts_nothing_off_for_no_time_or_for_ever(defer_seconds: float, expected: str) -> None:
    """A length of time within a year."""
    with pytest.raises(ValidationError, match=expected):
        ActionReport(action_id=GUID, sequence=3, state=ActionState.SCHEDULED, defer_seconds=defer_seconds)


def test_report_of_progress_puts_nothing_off() -> None:
    """Either the device goes on, or it waits."""
    with pytest.raises(ValidationError, match="expected it with the state scheduled, found trial"):
        ActionReport(action_id=GUID, sequence=3, state=ActionState.TRIAL, defer_seconds=60)


def test_document_error_names_the_window() -> None:
    """So that a file of many is mended at once."""
    content = b'{"stages": [{"percent": 100}], "maintenance": [{"from": "1", "to": "05:00"}]}'
    with pytest.raises(DocumentError, match=r"maintenance\.0\.from: .*expected a time of day"):
        parse_document(content, Plan)
