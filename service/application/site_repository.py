"""The port to which devices count for which site in a rollout; part of a unit of work."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from service.domain.sites import SiteDevice


class SiteRepository(Protocol):
    """The first devices of each site, in rollouts whose gates judge by site; no others have rows."""

    async def find(self, rollout_id: str, attribute: str, device_ids: Collection[str]) -> Mapping[str, SiteDevice]:
        """Return those of the devices that count, by device id."""

    async def members(
        self, rollout_id: str, attribute: str, sites: Collection[str]
    ) -> Mapping[str, Sequence[SiteDevice]]:
        """Return the devices of some sites, by site and in the order of their places."""

    async def put(self, rollout_id: str, devices: Sequence[SiteDevice]) -> None:
        """Store new and changed devices; the caller holds the rollout's row."""
