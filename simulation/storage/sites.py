"""Devices by site of a rollout in memory."""

from collections.abc import Collection, Mapping, Sequence

from service.domain.sites import SiteDevice
from simulation.storage.journal import Journal


class MemorySites:
    """Implements `SiteRepository`."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[tuple[str, str, str], SiteDevice] = {}  # by rollout, attribute and device
        self._members: dict[tuple[str, str, str], tuple[str, ...]] = {}  # device ids; by rollout and site

    async def find(self, rollout_id: str, attribute: str, device_ids: Collection[str]) -> Mapping[str, SiteDevice]:
        """See `SiteRepository.find`."""
        found = {device_id: self._rows.get((rollout_id, attribute, device_id)) for device_id in device_ids}
        return {device_id: device for device_id, device in found.items() if device is not None}

    async def members(
        self, rollout_id: str, attribute: str, sites: Collection[str]
    ) -> Mapping[str, Sequence[SiteDevice]]:
        """See `SiteRepository.members`."""
        found = {
            site: [self._rows[rollout_id, attribute, device_id] for device_id in ids]
            for site in sites
            if (ids := self._members.get((rollout_id, attribute, site)))
        }
        return {site: sorted(devices, key=lambda device: device.place) for site, devices in found.items()}

    async def put(self, rollout_id: str, devices: Sequence[SiteDevice]) -> None:
        """See `SiteRepository.put`."""
        for device in devices:
            key, of_site = (rollout_id, device.attribute, device.device_id), (rollout_id, device.attribute, device.site)
            if key not in self._rows:
                self._journal.put(self._members, of_site, (*self._members.get(of_site, ()), device.device_id))
            self._journal.put(self._rows, key, device)
