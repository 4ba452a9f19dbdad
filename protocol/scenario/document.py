"""The scenario as a whole, and what its parts must agree on."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Self

from pydantic import Field, model_validator

from protocol.document import Document, Moment
from protocol.lengths import Length
from protocol.plan.targets import ReleaseTest, leaves_of
from protocol.scenario.faults import KernelFault, ReleaseFault
from protocol.scenario.fleets import Fidelity, Fleet
from protocol.scenario.happenings import Happening
from protocol.scenario.hardware import HardwareRevision
from protocol.scenario.network import Region
from protocol.scenario.rollouts import VirtualRelease, VirtualRollout
from protocol.scenario.values import MOST, Label, Whole

FULL_SHARE = 1.0 + 1e-9
ANY = "*"
WHOLE_GROUP = 100.0
FACTORY = "factory"  # the release that virtual devices are made with
LAST_START = datetime.fromisoformat("9000-01-01T00:00:00+00:00")  # what follows must have a date, too
DEFAULT_START = datetime.fromisoformat("2026-01-05T08:00:00+00:00")


class Scenario(Document):
    """What a simulated fleet is made of and what happens to it; the seed decides every choice in it.

    Attributes:
        description: for people.
        seed: the same scenario and seed give the same run.
        start: of the virtual clock; full and light devices live by the wall clock.
        length: after which the run ends by itself; None: when it is stopped, or when its rollouts have ended.
        regions, hardware: by name; fleets refer to them.
        fleets: none means: the devices of the folders that are given.
        kernel_faults, release_faults: what goes wrong.
        happenings: what happens when.
        releases, rollouts: of virtual devices.
        inference_period_seconds: one event per core and period.
        inference_sample: how many devices run inference; 0 means all. For folders alone; fleets say it themselves.
        waits_for_flash: whether updates take as long as their flash work on the device; device time has it anyway.
    """

    description: Annotated[str, Field(max_length=2000)] = ""
    seed: Annotated[Whole, Field(ge=-MOST, le=MOST)] = 1
    start: Annotated[Moment, Field(le=LAST_START)] = DEFAULT_START
    length: Length | None = None
    regions: Mapping[Label, Region] = {}
    hardware: Mapping[Label, HardwareRevision] = {}
    fleets: tuple[Fleet, ...] = ()
    kernel_faults: tuple[KernelFault, ...] = ()
    release_faults: tuple[ReleaseFault, ...] = ()
    happenings: tuple[Happening, ...] = ()
    releases: tuple[VirtualRelease, ...] = ()
    rollouts: tuple[VirtualRollout, ...] = ()
    inference_period_seconds: Annotated[float, Field(ge=0.001, le=1e6)] = 1.0
    inference_sample: Annotated[Whole, Field(ge=0, le=MOST)] = 0
    waits_for_flash: bool = True

    @property
    def inference_period(self) -> timedelta:
        """One event per core and period, where a fleet does not say otherwise."""
        return timedelta(seconds=self.inference_period_seconds)

    @model_validator(mode="after")
    def _check_agreement(self) -> Self:
        """Refuse names that nothing declares, names twice, shares above 1, and rollouts that cannot be."""
        _check_unique("fleets", [fleet.name for fleet in self.fleets])
        _check_unique("releases", [release.name for release in self.releases])
        for where, name, declared in self._references():
            if name not in declared:
                raise ValueError(f"{where}: expected one of {_list(declared)}, found {name!r}")
        for where, shares in self._mixes():
            if sum(shares.values()) > FULL_SHARE:
                raise ValueError(f"{where}: expected shares of at most 1 together, found {sum(shares.values()):g}")
        if any(release.name == FACTORY for release in self.releases):
            raise ValueError(f"releases: expected other names than {FACTORY}, which is what devices are made with")
        for number, rollout in enumerate(self.rollouts):
            self._check_rollout(f"rollouts.{number}", rollout)
        return self

    def _check_rollout(self, where: str, rollout: VirtualRollout) -> None:
        percents = [stage.percent for stage in rollout.stages]
        is_planned = rollout.plan is not None
        if not is_planned and (percents != sorted(set(percents)) or percents[-1] != WHOLE_GROUP):
            raise ValueError(f"{where}.stages: expected percentages that rise to 100, found {percents}")
        groups = {(fleet.product, fleet.group) for fleet in self.fleets if fleet.fidelity is Fidelity.VIRTUAL}
        if self.fleets and (rollout.product, rollout.group) not in groups:
            found = f"{rollout.product} {rollout.group}"
            raise ValueError(f"{where}: expected product and group of a virtual fleet, found {found}")

    def _mixes(self) -> Iterator[tuple[str, Mapping[str, float]]]:
        for fleet in self.fleets:
            yield f"fleet {fleet.name}, hardware", fleet.hardware
            yield f"fleet {fleet.name}, regions", fleet.regions

    def _references(self) -> Iterator[tuple[str, str, Iterable[str]]]:
        fleets = [fleet.name for fleet in self.fleets]
        releases = [release.name for release in self.releases]
        for fleet in self.fleets:
            yield from ((f"fleet {fleet.name}, hardware", name, self.hardware) for name in fleet.hardware)
            yield from ((f"fleet {fleet.name}, regions", name, self.regions) for name in fleet.regions)
        for number, rollout in enumerate(self.rollouts):
            yield f"rollouts.{number}.release", rollout.release, releases
            filters = () if rollout.plan is None else rollout.plan.filters
            for test in (test for each in filters for test in leaves_of(each)):
                if isinstance(test, ReleaseTest):
                    yield f"rollouts.{number}.plan, filter of a release", test.release, [*releases, FACTORY]
        for number, happening in enumerate(self.happenings):
            where = f"happenings.{number}"
            yield from _named(where, fleet=(happening.fleet, fleets))
            yield from _named(
                where, region=(happening.region, self.regions), hardware=(happening.hardware, self.hardware)
            )
        for number, fault in enumerate(self.release_faults):
            where = f"release_faults.{number}"
            yield from _named(where, region=(fault.region, self.regions), hardware=(fault.hardware, self.hardware))
            if releases:
                yield f"{where}.release", fault.release, [*releases, ANY]
        for number, kernel_fault in enumerate(self.kernel_faults):
            yield from _named(f"kernel_faults.{number}", hardware=(kernel_fault.hardware, self.hardware))


def _named(where: str, **pairs: tuple[str | None, Iterable[str]]) -> Iterator[tuple[str, str, Iterable[str]]]:
    for key, (name, declared) in pairs.items():
        if name is not None:
            yield f"{where}.{key}", name, declared


def _check_unique(where: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{where}: expected each name once, found {twice[0]!r} more often")


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
