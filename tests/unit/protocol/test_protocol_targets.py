"""Filters of plans say what they mean, or an error says where they do not."""

import json
from typing import Any

import pytest

from protocol.document import DocumentError, canonical_json, parse_document
from protocol.geometry import Core, Slot
from protocol.model import InputContract, Measured, ModelCard
from protocol.plan import Plan
from protocol.plan.targets import InstalledTest, ModelTest, leaves_of, parts_of
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
        ({}, "expected one of attribute, installed, release, model, all, any and not"),
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
        ({"release": ""}, "release"),
        ({"release": "two words"}, "release"),
        ({"model": "m4-0"}, "expected one of kind, sensor, label, licence and fact"),
        ({"model": "a7", "kind": "tflite"}, "expected m4-0 or m4-1, found a7"),
        ({"model": "m4-0", "fact": "arena_bytes"}, "expected fact with below or at_least"),
        ({"model": "m4-0", "below": 7}, "expected fact with below or at_least"),
        ({"model": "m4-0", "fact": "colour", "below": 7}, "fact"),
        ({"model": "m4-0", "fact": "macs", "below": -1}, "below"),
        ({"model": "m4-0", "sensor": "nose"}, "sensor"),
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


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        ({"kind": "tflite"}, True),
        ({"kind": "anomaly-template"}, False),
        ({"sensor": "camera", "label": "cat", "licence": "MIT"}, True),
        ({"sensor": "camera", "label": "dog"}, False),
        ({"sensor": "microphone"}, False),
        ({"licence": "mit"}, False),
        ({"fact": "arena_bytes", "at_least": 2000}, True),
        ({"fact": "arena_bytes", "below": 2000}, False),
        ({"fact": "macs", "at_least": 3000, "below": 3001}, True),
        ({"fact": "flash_bytes", "at_least": 4001}, False),
        ({"fact": "model_bytes", "below": 1001, "label": "dog"}, False),
    ],
)
def test_model_is_chosen_by_what_its_card_says(keys: dict[str, Any], taken: bool) -> None:  # noqa: FBT001 - of the table
    """All of it; a figure that is the bound is at least that, and not below it."""
    card = ModelCard(
        name="pets",
        version="1.0.0",
        component_id=COMPONENT,
        core=Core.M4_0,
        input=InputContract(shape=(1,), dtype="int8"),
        labels=("cat", "none"),
        measured=Measured(model_bytes=1000, arena_bytes=2000, macs=3000, flash_bytes=4000),
        licence="MIT",
    )
    test = ModelTest.model_validate({"model": "m4-1", **keys})
    assert (test.slot, test.takes(card.facts)) == (Slot.M4_1_MODEL, taken)


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
