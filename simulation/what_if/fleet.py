"""A synthetic fleet: kinds of devices by region and hardware, with what becomes of a release on each.

How soon a device hears of a release follows from its network; how it ends, from the scenario's release faults and from
the share of devices on which any update fails. Devices of one kind are alike but for chance.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from protocol.messages import ActionState, Cause
from protocol.scenario import Scenario
from protocol.scenario.faults import ReleaseFault, ReleaseFaultKind
from protocol.scenario.fleets import Fleet
from protocol.scenario.network import NetworkQuality, Region

DAY_SECONDS = 86_400.0
CONTACT_SECONDS = 30.0  # mean until a connected device is woken and has fetched metadata
TRIAL_SECONDS = 40.0  # boot, golden vectors, live frames, confirm
IMAGE_BYTES = 334_152  # where the scenario names no image: a person model
USUAL_BYTES_PER_SECOND = 250_000

_ENDS: dict[ReleaseFaultKind, tuple[ActionState, Cause]] = {
    ReleaseFaultKind.DOWNLOAD: (ActionState.FAILED, Cause.DOWNLOAD),
    ReleaseFaultKind.VERIFY: (ActionState.FAILED, Cause.VERIFY),
    ReleaseFaultKind.FLASH: (ActionState.FAILED, Cause.FLASH),
    ReleaseFaultKind.BOOT: (ActionState.REVERTED, Cause.BOOT),
    ReleaseFaultKind.GOLDEN_VECTORS: (ActionState.REVERTED, Cause.GOLDEN_VECTORS),
    ReleaseFaultKind.BRICK: (ActionState.TIMED_OUT, Cause.SILENT),
}
"""Faults that show before the device confirms; the others show later, and no gate of today sees them."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an update ends on some devices of a kind.

    Attributes:
        share: of the kind.
        state: the last of the action.
        cause: of a failure, else None.
        is_harmed: the release is bad for the device, whether or not it shows.
    """

    share: float
    state: ActionState
    cause: Cause | None = None
    is_harmed: bool = False


@dataclass(frozen=True, slots=True)
class Kind:
    """Devices that are alike.

    Attributes:
        share: of the fleet.
        endings: together 1.
        contact_seconds: mean until a device that is online hears of the release.
        update_seconds: from then to its result.
        offline: daily windows in UTC, seconds of the day; the second may lie on the next day.
        outages: windows from the scenario's start, seconds.
    """

    name: str
    share: float
    endings: tuple[Ending, ...]
    contact_seconds: float = CONTACT_SECONDS
    update_seconds: float = TRIAL_SECONDS
    offline: tuple[tuple[float, float], ...] = ()
    outages: tuple[tuple[float, float], ...] = ()

    def online_from(self, at: float) -> float:
        """Return when a device that wants the network at a time gets it, seconds from the scenario's start."""
        for start, end in self.outages:
            if start <= at < end:
                at = end
        of_day = at % DAY_SECONDS
        for start, end in self.offline:
            for shift in (0.0, DAY_SECONDS):
                if start <= of_day + shift < end:
                    return at + end - (of_day + shift)
        return at


@dataclass(frozen=True, slots=True)
class FleetModel:
    """A synthetic fleet.

    Attributes:
        devices: how many.
        kinds: their shares together 1.
        start_of_day: of the scenario's start, seconds since midnight UTC.
    """

    devices: int
    kinds: tuple[Kind, ...]
    start_of_day: float = 0.0
    endings: tuple[Ending, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "endings", tuple(ending for kind in self.kinds for ending in kind.endings))


def model_of(scenario: Scenario, *, base_failure: float, failure_rate: float | None = None) -> FleetModel:
    """Return the fleet that a scenario declares.

    Args:
        scenario: with at least one fleet.
        base_failure: share of the devices on which any update fails while it is downloaded or written.
        failure_rate: share of the devices on which the release does not boot, in place of the scenario's release
            faults; None takes those.
    """
    devices = sum(fleet.devices for fleet in scenario.fleets)
    faults = scenario.release_faults if failure_rate is None else _plain(failure_rate)
    kinds = [
        _kind(
            scenario,
            fleet,
            share=share * fleet.devices / devices,
            region_name=region,
            hardware=hardware,
            faults=faults,
            base_failure=base_failure,
        )
        for fleet in scenario.fleets
        for region, in_region in _mix(fleet.regions)
        for hardware, of_hardware in _mix(fleet.hardware)
        if (share := in_region * of_hardware) > 0
    ]
    start = scenario.start.hour * 3600.0 + scenario.start.minute * 60.0 + scenario.start.second
    return FleetModel(devices, tuple(kinds), start)


def _plain(failure_rate: float) -> tuple[ReleaseFault, ...]:
    return (ReleaseFault(release="*", kind=ReleaseFaultKind.BOOT, share=failure_rate),) if failure_rate else ()


def _mix(shares: Mapping[str, float]) -> Iterator[tuple[str | None, float]]:
    """Yield names with their shares, and None with what is left."""
    yield from shares.items()
    yield None, max(0.0, 1.0 - sum(shares.values()))


def _kind(
    scenario: Scenario,
    fleet: Fleet,
    *,
    share: float,
    region_name: str | None,
    hardware: str | None,
    faults: Sequence[ReleaseFault],
    base_failure: float,
) -> Kind:
    region = Region() if region_name is None else scenario.regions[region_name]
    network = region.network
    ours = [fault for fault in faults if fault.hardware in (None, hardware) and fault.region in (None, region_name)]
    return Kind(
        name="/".join((fleet.name, region_name or "-", hardware or "-")),
        share=share,
        endings=tuple(_endings(ours, base_failure)),
        contact_seconds=(CONTACT_SECONDS + 20 * network.latency.total_seconds()) / (1 - min(network.loss, 0.9)),
        update_seconds=TRIAL_SECONDS + _image_bytes(scenario) / _bytes_per_second(network),
        offline=_windows(region, scenario),
        outages=tuple(
            (each.start.total_seconds(), (each.start + each.lasts).total_seconds()) for each in network.outages
        ),
    )


def _endings(faults: Sequence[ReleaseFault], base_failure: float) -> Iterator[Ending]:
    """Yield the ends of a kind's devices: a fault that strikes comes before the failures of every update."""
    left = 1.0
    for fault in faults:
        share = left * fault.share
        left -= share
        state, cause = _ENDS.get(fault.kind, (ActionState.CONFIRMED, None))
        yield Ending(share, state, cause, is_harmed=True)
    failed = left * base_failure
    if failed:
        yield Ending(failed, ActionState.FAILED, Cause.DOWNLOAD)
    if left - failed > 0:
        yield Ending(left - failed, ActionState.CONFIRMED)


def _image_bytes(scenario: Scenario) -> int:
    sizes = [image.bytes for release in scenario.releases[:1] for image in release.images.values()]
    return sum(sizes) or IMAGE_BYTES


def _bytes_per_second(network: NetworkQuality) -> float:
    return min(network.bytes_per_second or USUAL_BYTES_PER_SECOND, USUAL_BYTES_PER_SECOND)


def _windows(region: Region, scenario: Scenario) -> tuple[tuple[float, float], ...]:
    """Return the region's offline hours as seconds from the scenario's start, of every day."""
    start = scenario.start.hour * 3600.0 + scenario.start.minute * 60.0 + scenario.start.second
    windows = []
    for begin, end in region.network.offline_hours:
        first = (begin.hour * 3600.0 + begin.minute * 60.0 - region.utc_offset * 3600.0 - start) % DAY_SECONDS
        length = ((end.hour - begin.hour) * 3600.0 + (end.minute - begin.minute) * 60.0) % DAY_SECONDS
        windows.append((first, first + length))
    return tuple(windows)
