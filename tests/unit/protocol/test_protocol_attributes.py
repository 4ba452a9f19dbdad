"""Which attributes a device may have."""

import pytest
from pydantic import TypeAdapter, ValidationError

from protocol.attributes import MAX_ATTRIBUTES, AttributeChanges, AttributeRow, Attributes
from protocol.document import DocumentError, parse_document

DEVICE = "3f" * 64


def test_names_are_labels_and_values_are_lines() -> None:
    """A value may be any language's text; null removes an attribute, where one is changed."""
    kept = {"site": "Größe 4 / 火", "time-zone": "Europe/Berlin"}
    assert TypeAdapter(Attributes).validate_python(kept) == kept
    assert TypeAdapter(AttributeChanges).validate_python({"site": None}) == {"site": None}
    row = parse_document(f'{{"device": "{DEVICE}", "attributes": {{"ring": null}}}}'.encode(), AttributeRow)
    assert (row.device, row.attributes) == (DEVICE, {"ring": None})


@pytest.mark.parametrize(
    "attributes",
    [
        {"Site": "a"},
        {"": "a"},
        {"-site": "a"},
        {"n" * 41: "a"},
        {"site": ""},
        {"site": "a" * 101},
        {"site": "a\nb"},
        {"site": "a\x00"},
        {"site": None},
        {f"n{number}": "a" for number in range(MAX_ATTRIBUTES + 1)},
    ],
)
def test_attributes_of_another_form_are_refused(attributes: dict[str, str]) -> None:
    """Upper case, empty, too long, of several lines, unprintable, none, or too many."""
    with pytest.raises(ValidationError):
        TypeAdapter(Attributes).validate_python(attributes)


@pytest.mark.parametrize("device", ["3f9a", "xyz" * 8, "3f" * 65])
def test_row_of_no_device_is_refused(device: str) -> None:
    """An id is hex, 8 to 128 digits."""
    with pytest.raises(DocumentError, match="device"):
        parse_document(f'{{"device": "{device}", "attributes": {{}}}}'.encode(), AttributeRow)
