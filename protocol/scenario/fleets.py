"""Fleets of a scenario: how many devices of which kind, where they stand, and how real they are."""

from collections.abc import Mapping
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.attributes import MAX_ATTRIBUTES, AttributeName, AttributeValue
from protocol.document import Document, Name
from protocol.health import WINDOW
from protocol.lengths import Length
from protocol.scenario.values import MOST, Label, Share, Whole
from protocol.sensing import SensorConditions, SensorSource

SHORTEST_WINDOW = timedelta(seconds=1)
LONGEST_WINDOW = timedelta(days=1)
SHORTEST_PERIOD = timedelta(milliseconds=1)


class Fidelity(StrEnum):
    """How much of a simulated device is real."""

    FULL = "full"  # everything: flash, boot, TFLM, TLS
    LIGHT = "light"  # TLS, protocol and signatures; inference is recorded
    VIRTUAL = "virtual"  # no network: the service's use cases under a virtual clock


class InferenceSource(StrEnum):
    """Who answers for the M4 cores; None of a fleet means what its fidelity says."""

    TFLM = "tflm"
    RECORDED = "recorded"
    EMULATED = "emulated"  # instruction-accurate, see docs/simulator/emulated-core.md
    NONE = "none"


class Clocks(Document):
    """Clocks of a fleet's devices, drawn for each evenly within the limits.

    Attributes:
        offset: greatest error at the first boot, to either side.
        drift_ppm: greatest drift, to either side.
    """

    offset: Length = timedelta(0)
    drift_ppm: Annotated[float, Field(ge=0, le=100_000)] = 0.0


class PowerCycles(Document):
    """How often devices lose power, at random moments.

    Attributes:
        per_day: mean of a device.
        lasts: shortest and longest time without power.
    """

    per_day: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    lasts: tuple[Length, Length] = (timedelta(seconds=5), timedelta(seconds=60))

    @model_validator(mode="after")
    def _check_lasts(self) -> Self:
        if self.lasts[0] > self.lasts[1]:
            raise ValueError(f"lasts: expected the shorter time first, found {self.lasts[0]} and {self.lasts[1]}")
        return self


class FleetDeferral(Document):
    """Users who put updates off.

    Attributes:
        share: of the fleet's devices that have one, chosen by salted hash of the device id.
        lasts: for which each update is put off.
        times: that an update is put off by a device; then it may begin.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    lasts: Annotated[Length, Field(gt=timedelta(0), le=timedelta(days=366))] = timedelta(hours=4)
    times: Annotated[Whole, Field(ge=1, le=1000)] = 1


class Fleet(Document):
    """Devices of one kind.

    Attributes:
        devices: how many.
        product, group: where they are claimed to.
        hardware: share of each revision that the scenario declares; together at most 1, the rest is the default.
        regions: share of each region, in the same way.
        inference: who answers for the cores; None: what the fidelity says.
        inference_period: one event per core and period; None: the scenario's.
        inference_sample: how many of the devices run inference; None means all.
        health_window: over which a device sums up how its models did, before it tells the service.
        sensors: where the signals of its sensors come from; a path is taken from the scenario's folder.
        conditions: what disturbs its sensors.
        deferral: whose users put updates off; None: nobody's.
        attributes: facts of each device that rollouts may target, such as `site: harbour-{n}`; {n} is the device's
            number modulo `sites`.
        sites: over how many sites the devices are spread.
    """

    name: Label
    devices: Annotated[Whole, Field(ge=1, le=10_000_000)]
    fidelity: Fidelity = Fidelity.FULL
    product: Name = "Camera"
    group: Name = "Production"
    hardware: Mapping[Label, Share] = {}
    regions: Mapping[Label, Share] = {}
    clocks: Clocks = Clocks()
    power: PowerCycles = PowerCycles()
    inference: InferenceSource | None = None
    inference_period: Annotated[Length, Field(ge=SHORTEST_PERIOD)] | None = None
    inference_sample: Annotated[Whole, Field(ge=0, le=MOST)] | None = None
    health_window: Annotated[Length, Field(ge=SHORTEST_WINDOW, le=LONGEST_WINDOW)] = WINDOW
    sensors: tuple[SensorSource, ...] = ()
    conditions: tuple[SensorConditions, ...] = ()
    deferral: FleetDeferral | None = None
    attributes: Annotated[Mapping[AttributeName, AttributeValue], Field(max_length=MAX_ATTRIBUTES)] = {}
    sites: Annotated[Whole, Field(ge=1, le=MOST)] = 1
