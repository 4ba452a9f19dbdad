"""Which image is older, and what images require of one another."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import TypeAdapter, ValidationError

from protocol.geometry import Slot
from protocol.versions import Build, Requirements, is_older, satisfies, unmet_requirements

AT = datetime(2026, 11, 23, tzinfo=UTC)
INSTALLED = Build("a" * 64, "253ee667-88ae-4f55-acf6-2cdaa9ca15bc", "person@1.10.0", AT)


def _offered(name: str, *, built_at: datetime | None = AT) -> Build:
    return Build("b" * 64, INSTALLED.component_id, name, built_at)


@pytest.mark.parametrize(
    ("offered", "expected"),
    [
        (_offered("person@1.9.0", built_at=AT + timedelta(days=1)), True),
        (_offered("person@1.11.0", built_at=AT - timedelta(days=1)), False),
        (_offered("person@1.10.0", built_at=AT - timedelta(seconds=1)), True),
        (_offered("person@1.10.0"), False),
        (_offered("person@1.10.0", built_at=None), False),
        (_offered("person@night", built_at=AT - timedelta(seconds=1)), True),
        (_offered("person"), False),
    ],
)
def test_version_decides_then_the_time_of_the_build(offered: Build, *, expected: bool) -> None:
    """Versions compare by number; the same or none is left to the time."""
    assert is_older(offered, INSTALLED) is expected


def test_same_image_and_other_components_are_never_older() -> None:
    """There is nothing to go back from."""
    assert not is_older(INSTALLED, INSTALLED)
    assert not is_older(Build("b" * 64, "11a11404-de20-41c1-b66e-32354cb78e49", "person@0.1.0", AT), INSTALLED)


def test_requirements_name_what_is_missing() -> None:
    """Met by any image of the name; else expected and found."""
    model = Build("a" * 64, "c", "person@1.0.0", requires={"m4-0-runtime": ">=2.1,<3", "telemetry-app": "==1.*"})
    old, new = Build("b" * 64, "d", "m4-0-runtime@2.0.9"), Build("b" * 64, "d", "m4-0-runtime@2.1.0")
    app = Build("e" * 64, "f", "telemetry-app@1.0.0")
    together = {Slot.M4_0_MODEL: model, Slot.M4_0_FIRMWARE: old}
    assert list(unmet_requirements(together)) == [
        "m4-0/model, person@1.0.0: expected m4-0-runtime >=2.1,<3, found m4-0-runtime@2.0.9",
        "m4-0/model, person@1.0.0: expected telemetry-app ==1.*, found none",
    ]
    assert not list(unmet_requirements(together | {Slot.M4_0_FIRMWARE: new, Slot.A7_APPLICATION: app}))


@pytest.mark.parametrize(
    ("name", "wanted", "expected"),
    [
        ("app@2.1.0", ">=2.1", True),
        ("app@2.1.0rc1", ">=2.0", True),
        ("app@2.0.0", ">=2.1", False),
        ("app", ">=2.1", False),
        ("app@night", ">=2.1", False),
        ("app@2.1.0", "newest", False),
        ("app@" + "9" * 5000, ">=1", False),  # more digits than Python turns into a number
    ],
)
def test_versions_that_will_do(name: str, wanted: str, *, expected: bool) -> None:
    """What cannot be compared does not do."""
    assert satisfies(name, wanted) is expected


def test_version_of_endless_digits_cannot_be_compared() -> None:
    """Flash may hold any name that a package key signed."""
    assert Build("0" * 64, "component", "app@" + "9" * 5000).version is None


@pytest.mark.parametrize("wanted", [{"app": "newest"}, {"app": ""}, {"a b": ">=1"}, {str(i): ">=1" for i in range(17)}])
def test_malformed_requirements_are_refused(wanted: dict[str, str]) -> None:
    """A specifier, a name, and not too many."""
    with pytest.raises(ValidationError):
        TypeAdapter(Requirements).validate_python(wanted)
