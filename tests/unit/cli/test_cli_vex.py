"""The time of a new statement: after every older one, or none can be made."""

from datetime import UTC, datetime, timedelta

import pytest

from protocol.cyclonedx import (
    Affected,
    Analysis,
    AnalysisState,
    Component,
    ComponentType,
    Metadata,
    Statement,
    Vex,
)
from service.cli.vex import LastMomentError, moment_after

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def said(moment: datetime) -> Vex:
    """A statement of some time."""
    return Vex(
        serial_number="urn:uuid:3e671687-395b-41f5-a30f-a58921a69b79",
        metadata=Metadata(timestamp=moment, component=Component(type=ComponentType.FIRMWARE, name="release-1")),
        components=(Component(type=ComponentType.LIBRARY, bom_ref="1", name="tflm", version="1"),),
        vulnerabilities=(
            Statement(id="CVE-1", analysis=Analysis(state=AnalysisState.IN_TRIAGE), affects=(Affected(ref="1"),)),
        ),
    )


def test_statement_is_later_than_the_newest() -> None:
    """By a second where the clock is behind it, else by the clock."""
    ahead = NOW + timedelta(hours=1)
    assert moment_after([said(ahead), said(NOW)], NOW) == ahead + timedelta(seconds=1)
    assert moment_after([said(NOW - timedelta(days=1))], NOW) == NOW


def test_statement_at_the_end_of_all_time_leaves_room_for_none() -> None:
    """The command says so, and which one it is."""
    last = datetime.max.replace(microsecond=0, tzinfo=UTC)
    with pytest.raises(LastMomentError, match="found one of 9999-12-31 23:59:59"):
        moment_after([said(NOW), said(last)], NOW)
