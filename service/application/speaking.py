"""Who speaks for a site: of the devices that may fail together one counts in a gate, so a site is one draw.

The first that has something to say speaks from then on, in whichever arm it is, and also once it is in the other. So
nothing that strikes the others of the site moves the evidence, however it binds them to one another. A device without
the attribute speaks for itself.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from service.application.unit_of_work import UnitOfWork
from service.domain.gates.kept import KeptGate
from service.domain.rollout import Rollout
from service.domain.sites import site_of


@dataclass(slots=True)
class Speakers:
    """Who speaks for the sites of some devices in a rollout.

    Attributes:
        sites: of the devices, by attribute and device; those without the attribute are left out.
        known: devices that speak, by gate and site.
        new: those of them that are not stored yet.
    """

    sites: Mapping[str, Mapping[str, str]]
    known: dict[tuple[str, str], str]
    new: dict[tuple[str, str], str] = field(default_factory=dict)

    def let_speak(self, gate: KeptGate, device_id: str) -> bool:
        """Return whether a device counts in a gate; the first of a site to be asked for speaks for it from now on."""
        site = self.sites.get(gate.group_by, {}).get(device_id)
        if site is None:
            return True
        if (gate.name, site) not in self.known:
            self.known[gate.name, site] = self.new[gate.name, site] = device_id
        return self.known[gate.name, site] == device_id

    async def store(self, work: UnitOfWork, rollout_id: str) -> None:
        """Store who has begun to speak."""
        if self.new:
            await work.health.let_speak(rollout_id, self.new)


async def speakers_of(
    work: UnitOfWork, rollout: Rollout, gates: Collection[KeptGate], device_ids: Collection[str]
) -> Speakers:
    """Return who speaks for the sites of some devices.

    Args:
        work: the transaction, which holds the rollout's row.
        rollout: of the gates.
        gates: that may judge by site.
        device_ids: of the devices.
    """
    attributes = {gate.group_by for gate in gates if gate.group_by}
    if not attributes:
        return Speakers({}, {})
    values = await work.attributes.of(device_ids)
    sites = {
        attribute: {
            device_id: site_of(device_id, of_device, attribute)
            for device_id, of_device in values.items()
            if attribute in of_device
        }
        for attribute in attributes
    }
    named = {site for of_attribute in sites.values() for site in of_attribute.values()}
    return Speakers(sites, dict(await work.health.speakers(rollout.rollout_id, named)))
