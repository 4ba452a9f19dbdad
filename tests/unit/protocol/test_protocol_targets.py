"""Filters of plans say what they mean, or an error says where they do not."""

import json
from typing import Any

import pytest

from protocol.document import DocumentError, canonical_json, parse_document
from protocol.plan import Plan
from protocol.plan.targets import InstalledTest, leaves_of, parts_of
from protocol.versions import Build

COMPONENT = "11111111-1111-4111-8111-111111111111"
MODEL = {"installed": "m4-0/model", "name": "person"}
EU = {"attribute": "region", "is": "eu"}


def parse(target: Any, **keys: Any) -> Plan:
    content = {"target": target, "stages": [{"percent": 100}], **keys}
    return parse_document(json.dumps(content).encode(), Plan)


def test_filter_goes_to_a_database_and_back() -> None:
    """By the words of plans, of every kind; its tests are found wherever they stand."""
    target = {"all": [EU, {"any": [{"attribute": "ring", "in": ["a", "b"]}, {"not": {**MODEL, "below": "2.1"}}]}]}
    plan = parse(target, stages=[{"count": 1, "where": EU}, {"percent": 100}])
    assert parse_document(canonical_json(plan), Plan) == plan
    assert plan.target is not None
    assert [getattr(test, "values", None) for test in leaves_of(plan.target)] == [("eu",), ("a", "b"), None]
    assert len(parts_of(plan.target)) == 2
    assert parts_of(next(leaves_of(plan.target))) == ()
    again = Plan(target=plan.target, stages=plan.stages)
    assert (again.target, hash(again.target)) == (plan.target, hash(plan.target))
    assert parse(None).target is None


@pytest.mark.parametrize(
    ("target", "match"),
    [
        ({}, "expected one of attribute, installed, all, any and not"),
        ("region=eu", "expected one of attribute"),
        ({"attribute": "region"}, "either is or in"),
        ({**EU, "in": ["us"]}, "either is or in"),
        ({"attribute": "ring", "in": []}, "in"),
        ({"attribute": "Region", "is": "eu"}, "attribute"),
        ({**EU, "installed": "m4-0/model"}, "installed"),
        ({"installed": "m4-0/model"}, "either component or name"),
        ({**MODEL, "component": COMPONENT}, "either component or name"),
        ({**MODEL, "is": "2", "below": "3"}, "expected is alone"),
        ({**MODEL, "below": "two"}, "expected a version"),
        ({"installed": "m9/model", "name": "person"}, "installed"),
        ({"all": []}, "all"),
        ({"any": [EU] * 17}, "any"),
        ({"not": {"not": {"not": {"not": {"not": EU}}}}}, "at most 5 levels, found 6"),
        ({"all": [{"any": [EU] * 16}] * 5}, "at most 64 tests, found 80"),
    ],
)
def test_filter_that_means_nothing_is_refused(target: Any, match: str) -> None:
    """With what was expected."""
    with pytest.raises(DocumentError, match=match):
        parse(target)


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        ({}, ["1.9", "2.1", "2.10", "odd"]),
        ({"is": "2.1.0"}, ["2.1"]),
        ({"below": "2.10"}, ["1.9", "2.1"]),
        ({"at_least": "2.1"}, ["2.1", "2.10"]),
        ({"at_least": "2", "below": "2.5"}, ["2.1"]),
    ],
)
def test_versions_are_compared_as_versions(keys: dict[str, str], taken: list[str]) -> None:
    """2.10 comes after 2.9, and a text that is no version passes no bound."""
    test = InstalledTest.model_validate({**MODEL, **keys})
    builds = {version: Build("ab", COMPONENT, f"person@{version}") for version in ("1.9", "2.1", "2.10", "odd")}
    assert [version for version, build in builds.items() if test.takes(build)] == taken
    assert not test.takes(Build("ab", COMPONENT, "face@2.1"))


def test_component_is_what_an_image_is_a_build_of() -> None:
    """Whatever its name."""
    test = InstalledTest.model_validate({"installed": "m4-0/model", "component": COMPONENT})
    assert test.takes(Build("ab", COMPONENT, "anything@1"))
    assert not test.takes(Build("ab", COMPONENT.replace("1", "2"), "anything@1"))


def test_stages_rise_among_those_of_the_same_filter() -> None:
    """A stage of other devices begins anew; one that is held out needs a last stage of all."""
    stages = [{"percent": 100, "where": EU}, {"percent": 10}, {"percent": 100}]
    assert len(parse(None, stages=stages).stages) == 3
    with pytest.raises(DocumentError, match="reaches further"):
        parse(None, stages=[*stages, {"percent": 50, "where": EU}])
    with pytest.raises(DocumentError, match="hold_out"):
        parse(None, stages=stages[:1], hold_out={})
