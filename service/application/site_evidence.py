"""Evidence by site: gates are told what has become of devices in the transaction that takes it.

A report costs the rows of its device's site, of which at most 64 count, whatever the fleet and the rollout hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from service.application.unit_of_work import UnitOfWork
from service.domain.action import Action
from service.domain.policy import CauseGate
from service.domain.rollout import Rollout
from service.domain.sites import SiteDevice, joined, judged, site_of


async def tell_sites(work: UnitOfWork, rollout: Rollout, actions: Sequence[Action]) -> Rollout:
    """Return the rollout with its gates by site told of changed actions; one that is over is told nothing more.

    Args:
        work: the transaction, which holds the rollout's row.
        rollout: of the actions.
        actions: as they are now.
    """
    gates = rollout.conditions.policy.gates_by_site
    given = [action for action in actions if action.offered and not action.heals]
    if rollout.state.is_over or not gates or not given:
        return rollout
    for attribute in sorted({gate.group_by for gate in gates}):
        of_attribute = [gate for gate in gates if gate.group_by == attribute]
        rollout = await _told(work, rollout, of_attribute, given)
    return rollout


async def _told(work: UnitOfWork, rollout: Rollout, gates: Sequence[CauseGate], actions: Sequence[Action]) -> Rollout:
    attribute = gates[0].group_by
    sites = await _sites(work, rollout, attribute, [action.device_id for action in actions])
    members = dict(await work.sites.members(rollout.rollout_id, attribute, set(sites.values())))
    kept, changed = rollout.kept, dict[str, SiteDevice]()
    for action in actions:
        site = sites[action.device_id]
        before = members.get(site, ())
        after = members[site] = joined(before, action, attribute=attribute, site=site)
        kept = judged(kept, gates, before, after)
        changed |= {device.device_id: device for device in after if device not in before}
    if changed:
        await work.sites.put(rollout.rollout_id, list(changed.values()))
    return replace(rollout, kept=kept)


async def _sites(work: UnitOfWork, rollout: Rollout, attribute: str, device_ids: Sequence[str]) -> Mapping[str, str]:
    """Return each device's site: the one that it counts for already, or else what its attribute says now."""
    known = await work.sites.find(rollout.rollout_id, attribute, device_ids)
    new = [device_id for device_id in device_ids if device_id not in known]
    attributes = await work.attributes.of(new) if new else {}
    sites = {device_id: site_of(device_id, attributes.get(device_id, {}), attribute) for device_id in new}
    return sites | {device_id: device.site for device_id, device in known.items()}
