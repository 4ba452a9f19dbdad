"""What a scenario finds when it begins: products, groups, releases in force, and devices that were claimed before."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from device_sim.fleets.making import identity_of
from device_sim.fleets.plan import DevicePlan, plan_fleet
from protocol.identity import DeviceId
from protocol.scenario import Scenario
from protocol.scenario.fleets import Fidelity, Fleet
from protocol.voucher import Voucher
from service.application.products import Products
from service.domain.device import Device
from service.domain.errors import NotFoundError
from service.domain.operator import Actor, Role
from service.domain.product import GroupPolicy, Product
from simulation.clock import VirtualClock
from simulation.driving import drive
from simulation.entropy import SeededEntropy
from simulation.images import Catalogue
from simulation.storage.database import MemoryDatabase

OPERATOR = Actor("scenario", Role.ADMIN, approved_by="scenario-2")  # a scenario plays both persons
DEVICES_PER_STEP = 5_000
# Names no catalog: in virtual fidelity nobody verifies a voucher.
VOUCHER_ID = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Planned:
    """A device before it is made.

    Attributes:
        device_id: of its identity key, which nothing else of it needs.
        fleet: as the scenario declares it.
    """

    device_id: DeviceId
    plan: DevicePlan
    fleet: Fleet


def plan_devices(scenario: Scenario) -> list[Planned]:
    """Return every virtual device of a scenario."""
    return [
        Planned(identity_of(scenario, plan), plan, fleet)
        for fleet in scenario.fleets
        if fleet.fidelity is Fidelity.VIRTUAL
        for plan in plan_fleet(scenario, fleet)
    ]


def begin(
    database: MemoryDatabase,
    clock: VirtualClock,
    entropy: SeededEntropy,
    *,
    catalogue: Catalogue,
    planned: Iterable[Planned],
) -> None:
    """Store what is there when the scenario begins."""
    devices = list(planned)
    wanted = list(dict.fromkeys((each.fleet.product, each.fleet.group) for each in devices))
    groups = drive(_make_groups(database, Products(database, clock=clock, entropy=entropy), wanted))
    drive(_bring_into_force(database, catalogue))
    for start in range(0, len(devices), DEVICES_PER_STEP):
        drive(_claim(database, devices[start : start + DEVICES_PER_STEP], groups, at=clock.now()))


def make_voucher(at: datetime) -> Voucher:
    """Return what stands for every device's voucher: it names no roots, and nobody verifies it."""
    return Voucher(
        device_id="0" * 128,
        catalog_id=VOUCHER_ID,
        catalog_name="virtual",
        sequence=1,
        issued_at=at,
        tls_root=b"",
        director_root=b"",
        image_root=b"",
        package_keys=(),
        golden_keys=(),
    )


async def _make_groups(
    database: MemoryDatabase, products: Products, wanted: Iterable[tuple[str, str]]
) -> Mapping[tuple[str, str], str]:
    """Make products and groups that are wanted; return group ids by the names of both."""
    made: dict[tuple[str, str], str] = {}
    for product, group in wanted:
        try:
            found = await products.get(product)
        except NotFoundError:
            found = await products.create(OPERATOR, name=product, description="")
        made[product, group] = await _group_id(database, products, found, group)
    return made


async def _group_id(database: MemoryDatabase, products: Products, product: Product, name: str) -> str:
    async with database(read_only=True) as work:
        with suppress(NotFoundError):
            return (await work.products.get_group(name, product_id=product.product_id)).group_id
    made = await products.create_group(OPERATOR, product=product.name, name=name, description="", policy=GroupPolicy())
    return made.group_id


async def _bring_into_force(database: MemoryDatabase, catalogue: Catalogue) -> None:
    async with database() as work:
        await work.metadata.add_images([image.listed for image in catalogue.images])
        for release in catalogue.releases:
            await work.releases.add(release.stored)
        await work.commit()


async def _claim(
    database: MemoryDatabase, devices: Sequence[Planned], groups: Mapping[tuple[str, str], str], *, at: datetime
) -> None:
    async with database() as work:
        for each in devices:
            await work.devices.add(
                Device(
                    device_id=each.device_id,
                    group_id=groups[each.fleet.product, each.fleet.group],
                    identity_key=b"",
                    idevid_chain="",
                    claimed_at=at,
                    claimed_by=OPERATOR.name,
                )
            )
        await work.attributes.put({each.device_id: each.plan.attributes for each in devices})
        await work.commit()
