"""Regions of a scenario, and the quality of the networks that their devices live in."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field

from protocol.document import Document
from protocol.lengths import Length
from protocol.scenario.values import MOST, Hours, Share, Whole


class Outage(Document):
    """Nobody in the region reaches the service for a while."""

    start: Length
    lasts: Length


class NetworkQuality(Document):
    """What lies between a device and the service; the defaults are a perfect network.

    Attributes:
        latency: one way.
        jitter: greatest deviation of the latency, to either side.
        loss: share of the exchanges that get lost; a lost one costs its time limit or a retransmission.
        bytes_per_second: of one device; None is unlimited.
        metered_bytes_per_day: where it is used up the device is offline until midnight of its region; None: no end.
        nat_timeout: a connection that is silent for longer is dropped without a word; None never.
        offline_hours: captive hours of every day, in the region's time.
        outages: once each, from the scenario's start.
    """

    latency: Length = timedelta(0)
    jitter: Length = timedelta(0)
    loss: Share = 0.0
    bytes_per_second: Annotated[Whole, Field(gt=0, le=MOST)] | None = None
    metered_bytes_per_day: Annotated[Whole, Field(gt=0, le=MOST)] | None = None
    nat_timeout: Length | None = None
    offline_hours: tuple[Hours, ...] = ()
    outages: tuple[Outage, ...] = ()


class Region(Document):
    """A part of the world.

    Attributes:
        utc_offset: of its clocks, hours; for offline hours and maintenance windows.
        network: of its devices.
    """

    utc_offset: Annotated[float, Field(ge=-12, le=14)] = 0.0
    network: NetworkQuality = NetworkQuality()
