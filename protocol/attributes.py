"""Attributes: facts of a device that people give it, such as its site, its ring, or its time zone.

A name is a label, a value is a line of text. Nothing of them is interpreted here; rollouts may target them.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

from protocol.document import Document, Printable

MAX_ATTRIBUTES = 32  # of one device

AttributeName = Annotated[str, Field(pattern=r"^[a-z0-9](?:[a-z0-9.-]{0,38}[a-z0-9])?$")]
"""Lower case letters, digits, points and hyphens, at most 40 characters."""

AttributeValue = Annotated[Printable, Field(min_length=1, max_length=100)]
"""One line of text."""

Attributes = Annotated[Mapping[AttributeName, AttributeValue], Field(max_length=MAX_ATTRIBUTES)]
"""All attributes of a device, by name."""

AttributeChanges = Annotated[Mapping[AttributeName, AttributeValue | None], Field(max_length=2 * MAX_ATTRIBUTES)]
"""Attributes to set, by name; None removes one (RFC 7396)."""


class AttributeRow(Document):
    """One line of a file of attributes.

    Attributes:
        device: its id, or a unique beginning of at least 8 digits.
        attributes: what to change of them; others stay.
    """

    device: Annotated[str, Field(pattern=r"^[0-9a-f]{8,128}$")]
    attributes: AttributeChanges
