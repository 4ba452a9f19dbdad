"""A synthetic fleet: kinds of devices by region and hardware, with what becomes of a release on each.

How soon a device hears of a release follows from its network; how it ends, from the scenario's release faults and from
the share of devices on which any update fails. Devices of one kind are alike but for chance.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from protocol.messages import ActionState, Cause
from protocol.plan import HealthEvent
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from protocol.scenario.fleets import Fleet
from protocol.scenario.happenings import Happening, HappeningKind
from protocol.scenario.network import NetworkQuality, Region
from simulation.errors import WhatIfError
from simulation.what_if.arrays import Floats
from simulation.what_if.places import Places
from simulation.what_if.windows import ALWAYS, OpenTimes

Windows = tuple[tuple[float, float], ...]

DAY_SECONDS = 86_400.0
CONTACT_SECONDS = 30.0  # mean until a connected device is woken and has fetched metadata
TRIAL_SECONDS = 40.0  # boot, golden vectors, live frames, confirm
IMAGE_BYTES = 334_152  # where the scenario names no image: a person model
USUAL_BYTES_PER_SECOND = 250_000
HIGHEST_LOSS = 0.9  # of a network over which updates still come through
MAX_KINDS = 1000

_ENDS: Mapping[ReleaseFaultKind, tuple[ActionState, Cause]] = {
    ReleaseFaultKind.DOWNLOAD: (ActionState.FAILED, Cause.DOWNLOAD),
    ReleaseFaultKind.VERIFY: (ActionState.FAILED, Cause.VERIFY),
    ReleaseFaultKind.FLASH: (ActionState.FAILED, Cause.FLASH),
    ReleaseFaultKind.BOOT: (ActionState.REVERTED, Cause.BOOT),
    ReleaseFaultKind.GOLDEN_VECTORS: (ActionState.REVERTED, Cause.GOLDEN_VECTORS),
    ReleaseFaultKind.BRICK: (ActionState.TIMED_OUT, Cause.SILENT),
}
"""Faults that show before the device confirms."""
_EVENTS: Mapping[ReleaseFaultKind, HealthEvent] = {
    ReleaseFaultKind.CRASH_LOOP: HealthEvent.CRASH,
    ReleaseFaultKind.SLOW: HealthEvent.SLOW,
    ReleaseFaultKind.DRIFT: HealthEvent.DRIFT,
}
"""Faults that show later, to gates that compare devices with those that do not have the release."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an update ends.

    Attributes:
        state: the last of the action.
        cause: of a failure, else None.
        is_harmed: the release is bad for the device, whether or not it shows.
        earlier: attempts that failed before.
        blamed: what these failed for, else None.
        event: what strikes the device once it has confirmed, or None.
        event_after: seconds from then.
    """

    state: ActionState
    cause: Cause | None = None
    is_harmed: bool = False
    earlier: int = 0
    blamed: Cause | None = None
    event: HealthEvent | None = None
    event_after: float = 0.0

    @property
    def causes(self) -> frozenset[Cause]:
        """What the device has failed for in the end."""
        return frozenset(cause for cause in (self.cause, self.blamed) if cause is not None)


CONFIRMED = Ending(ActionState.CONFIRMED)
BASE_FAILURE = Ending(ActionState.FAILED, Cause.DOWNLOAD)


@dataclass(frozen=True, slots=True)
class Kind:
    """Devices that are alike.

    Attributes:
        share: of the fleet.
        endings: with their shares of the kind, together 1.
        contact_seconds: mean until a device that is online hears of the release.
        update_seconds: from then to its result.
        offline: windows of every day, seconds from the scenario's start; the end may lie on the next day.
        outages: windows from the scenario's start, once each, seconds.
        utc_offset: of the clocks where it stands, hours; None in no region.
        clock: which of the fleet's clocks it goes by.
        fleet: that they belong to.
        attributes: of each device; `{n}` in a value is the number of its site.
        sites: over how many sites the devices are spread.
        place: which of the fleet's places they belong to; -1 for none.
    """

    share: float
    endings: tuple[tuple[Ending, float], ...]
    contact_seconds: float = CONTACT_SECONDS
    update_seconds: float = TRIAL_SECONDS
    offline: Windows = ()
    outages: Windows = ()
    utc_offset: float | None = None
    clock: int = 0
    fleet: str = ""
    attributes: tuple[tuple[str, str], ...] = ()
    sites: int = 1
    place: int = -1

    def online_from(self, at: Floats) -> Floats:
        """Return when devices that want the network at these times get it, seconds from the scenario's start."""
        for _ in range(len(self.offline) + len(self.outages)):  # one window may end within another
            at = self._after_outages(self._after_hours(at))
        return at

    def is_online(self, begin: float, *, seconds: float) -> bool:
        """Whether devices get the network throughout a time, seconds from the scenario's start."""
        end = begin + seconds
        hours = ((begin - start) % DAY_SECONDS for start, _ in self.offline)  # since each began last
        return all(until <= begin or end < start for start, until in self.outages) and all(
            stop - start <= since and since + seconds < DAY_SECONDS
            for (start, stop), since in zip(self.offline, hours, strict=True)
        )

    def _after_outages(self, at: Floats) -> Floats:
        for start, end in self.outages:
            at = np.where((start <= at) & (at < end), end, at)
        return at

    def _after_hours(self, at: Floats) -> Floats:
        for start, end in self.offline:
            since = (at - start) % DAY_SECONDS  # since the window began last
            at = np.where(since < end - start, at + (end - start) - since, at)
        return at


@dataclass(frozen=True, slots=True)
class FleetModel:
    """A synthetic fleet.

    Attributes:
        devices: how many.
        kinds: their shares together 1; no two of them alike.
        clocks: when the plan's maintenance windows are open, by the clocks that devices go by.
        places: where the plan's disruption budget holds, by what devices of a kind belong to.
        unbound: share of the devices at places where the budget is left out.
        endings: of all kinds, each once.
    """

    devices: int
    kinds: tuple[Kind, ...]
    clocks: tuple[OpenTimes, ...] = (ALWAYS,)
    places: tuple[Places, ...] = ()
    unbound: float = 0.0
    endings: tuple[Ending, ...] = field(init=False)

    def __post_init__(self) -> None:
        found = dict.fromkeys(ending for kind in self.kinds for ending, _ in kind.endings)
        object.__setattr__(self, "endings", tuple(found))


def model_of(scenario: Scenario, *, base_failure: float, faults: Sequence[ReleaseFault] = ()) -> FleetModel:
    """Return the fleet that a scenario declares.

    Args:
        scenario: whose fleets, networks and happenings count.
        base_failure: share of the devices on which any update fails while it is downloaded or written.
        faults: of the release; none means a healthy one.

    Raises:
        WhatIfError: it has no devices, or happenings split it into too many kinds.
    """
    devices = sum(fleet.devices for fleet in scenario.fleets)
    if not devices:
        raise WhatIfError("fleets: expected at least one fleet with devices, found none")
    kinds = (
        replace(kind, share=kind.share / devices)
        for fleet in scenario.fleets
        for kind in _kinds(scenario, fleet, faults=faults, base_failure=base_failure)
    )
    return FleetModel(devices, merged(kinds))


def plain_fault(failure_rate: float) -> tuple[ReleaseFault, ...]:
    """Return a release that does not boot on a share of the devices; nothing for none."""
    return (ReleaseFault(release="*", kind=ReleaseFaultKind.BOOT, share=failure_rate),) if failure_rate else ()


def _kinds(scenario: Scenario, fleet: Fleet, *, faults: Sequence[ReleaseFault], base_failure: float) -> Iterator[Kind]:
    """Yield the kinds of one fleet; their shares are devices here."""
    for region_name, in_region in _mix(fleet.regions):
        for hardware, of_hardware in _mix(fleet.hardware):
            ours = [f for f in faults if f.hardware in (None, hardware) and f.region in (None, region_name)]
            kind = _kind(
                scenario,
                None if region_name is None else scenario.regions[region_name],
                endings=tuple(_endings(ours, base_failure)),
                share=in_region * of_hardware * fleet.devices,
            )
            attributes = tuple(sorted(fleet.attributes.items()))
            kind = replace(kind, fleet=fleet.name, attributes=attributes, sites=fleet.sites)
            hits = [
                each
                for each in scenario.happenings
                if each.kind is HappeningKind.OFFLINE
                and each.fleet in (None, fleet.name)
                and each.region in (None, region_name)
                and each.hardware in (None, hardware)
            ]
            yield from _split(kind, hits)


def _mix(shares: Mapping[str, float]) -> Iterator[tuple[str | None, float]]:
    """Yield names with their shares, and None with what is left."""
    left = 1.0 - sum(shares.values())
    yield from ((name, share) for name, share in shares.items() if share > 0)
    if left > 1e-9:  # noqa: PLR2004 - what is left of sums in floating point
        yield None, left


def _kind(
    scenario: Scenario, region: Region | None, *, endings: tuple[tuple[Ending, float], ...], share: float
) -> Kind:
    network = NetworkQuality() if region is None else region.network
    return Kind(
        share=share,
        endings=endings,
        contact_seconds=(CONTACT_SECONDS + 20 * network.latency.total_seconds())
        / (1 - min(network.loss, HIGHEST_LOSS)),
        update_seconds=TRIAL_SECONDS + _image_bytes(scenario) / _bytes_per_second(network),
        offline=() if region is None else tuple(_hours(region, scenario.start)),
        outages=tuple(
            (each.start.total_seconds(), (each.start + each.lasts).total_seconds()) for each in network.outages
        ),
        utc_offset=None if region is None else region.utc_offset,
    )


def _split(kind: Kind, happenings: Sequence[Happening]) -> list[Kind]:
    """Return the kind with what cuts it off, once hit and once spared where only a share of it is."""
    kinds = [kind]
    for happening in happenings:
        begins = happening.at.total_seconds()
        window = (begins, begins + happening.lasts.total_seconds())
        hit = [replace(k, share=k.share * happening.share, outages=(*k.outages, window)) for k in kinds]
        spared = [replace(k, share=k.share * (1 - happening.share)) for k in kinds] if happening.share < 1 else []
        kinds = hit + spared
        if len(kinds) > MAX_KINDS:
            raise WhatIfError(
                f"happenings: expected at most {MAX_KINDS} kinds of devices by who is offline, found more"
            )
    return kinds


def _endings(faults: Sequence[ReleaseFault], base_failure: float) -> Iterator[tuple[Ending, float]]:
    """Yield the ends of a kind's devices: a fault that strikes comes before the failures of every update."""
    left = 1.0
    for fault in faults:
        share = left * fault.share
        left -= share
        state, cause = _ENDS.get(fault.kind, (ActionState.CONFIRMED, None))
        if fault.after and fault.kind is ReleaseFaultKind.BRICK:
            state, cause = ActionState.CONFIRMED, None
        event, seconds = _EVENTS.get(fault.kind), fault.after.total_seconds()
        yield Ending(state, cause, is_harmed=True, event=event, event_after=seconds if event else 0.0), share
    failed = left * base_failure
    if failed > 0:
        yield BASE_FAILURE, failed
    if left > failed:
        yield CONFIRMED, left - failed


def merged(kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """Return kinds of which no two are alike."""
    shares: dict[Kind, float] = {}
    for kind in kinds:
        alike = replace(kind, share=0.0)
        shares[alike] = shares.get(alike, 0.0) + kind.share
    return tuple(replace(kind, share=share) for kind, share in shares.items())


def _image_bytes(scenario: Scenario) -> int:
    sizes = [image.bytes for release in scenario.releases[:1] for image in release.images.values()]
    return sum(sizes) or IMAGE_BYTES


def _bytes_per_second(network: NetworkQuality) -> float:
    return min(network.bytes_per_second or USUAL_BYTES_PER_SECOND, USUAL_BYTES_PER_SECOND)


def _hours(region: Region, start: datetime) -> Iterator[tuple[float, float]]:
    """Yield the region's offline hours of every day, seconds from the scenario's start."""
    begun = start.astimezone(UTC)
    there = begun.hour * 3600.0 + begun.minute * 60.0 + begun.second + region.utc_offset * 3600.0  # since midnight
    for begin, end in region.network.offline_hours:
        first = (begin.hour * 3600.0 + begin.minute * 60.0 - there) % DAY_SECONDS
        length = ((end.hour - begin.hour) * 3600.0 + (end.minute - begin.minute) * 60.0) % DAY_SECONDS
        yield first, first + length
