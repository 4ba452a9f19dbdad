"""Which site a device counts for in a rollout, and what has become of it there.

A site is a value of an attribute, taken when the device is first given the release and kept: who changes the attribute
later moves no evidence. A device without the attribute is a site of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from protocol.messages import ActionState, Cause
from service.domain.action import Action
from service.domain.gates.kept import AllKept, Kept
from service.domain.gates.site_rate import MOST_DEVICES, Result, Site, SiteEvidence
from service.domain.policy import CauseGate
from service.domain.rollout_counts import is_counted


@dataclass(frozen=True, slots=True)
class SiteDevice:
    """A device among those of its site.

    Attributes:
        attribute: whose values are the sites.
        site: see `site_of`.
        place: in the order in which the site's devices were given the release, from 1.
        causes: of all its failures so far.
        is_settled: nothing goes on at the device.
        is_confirmed: it runs the release.
    """

    device_id: str
    attribute: str
    site: str
    place: int
    causes: frozenset[Cause] = frozenset()
    is_settled: bool = False
    is_confirmed: bool = False

    def after(self, action: Action) -> "SiteDevice":
        """Return it once its action has changed; a failure stays, whatever a later attempt says."""
        return replace(
            self,
            causes=self.causes | action.blames,
            is_settled=action.state.is_final,
            is_confirmed=action.state is ActionState.CONFIRMED,
        )

    def result(self, causes: frozenset[Cause]) -> Result:
        """Return what a gate sees that counts some causes, or none for all but silence.

        Silence that it does not count is no result.
        """
        failed = is_counted(self.causes, causes)
        is_heard = self.is_confirmed or (self.is_settled and bool(self.causes) and Cause.SILENT not in self.causes)
        return Result(failed=failed, cleared=is_heard and not failed)


def site_of(device_id: str, attributes: Mapping[str, str], attribute: str) -> str:
    """Return a device's site; no value of an attribute is the site of a device without it."""
    return f"={attributes[attribute]}" if attribute in attributes else f"#{device_id}"


def joined(devices: Sequence[SiteDevice], action: Action, *, attribute: str, site: str) -> Sequence[SiteDevice]:
    """Return a site's devices once one of its actions has changed.

    Args:
        devices: of the site, by place; at most as many as count.
        action: of a device that was given the release.
        attribute: whose values are the sites.
        site: see `site_of`.
    """
    ids = [device.device_id for device in devices]
    if action.device_id in ids:
        index = ids.index(action.device_id)
        return [*devices[:index], devices[index].after(action), *devices[index + 1 :]]
    if len(devices) >= MOST_DEVICES:
        return devices
    return [*devices, SiteDevice(action.device_id, attribute, site, len(devices) + 1).after(action)]


def judged(
    kept: AllKept, gates: Sequence[CauseGate], before: Sequence[SiteDevice], after: Sequence[SiteDevice]
) -> AllKept:
    """Return what gates keep once the devices of one site have changed.

    Args:
        kept: by the gates of the rollout, with the site as it was.
        gates: that judge by the site's attribute.
        before: the site's devices, by place; empty where it is new.
        after: the same, as they are now.
    """
    changed: dict[str, Kept] = {}
    for gate in gates:
        was = Site.of([device.result(gate.causes) for device in before]) if before else None
        now = Site.of([device.result(gate.causes) for device in after])
        if now != was:
            changed[gate.name] = gate.by_site.after(SiteEvidence.of(kept.get(gate.name, {})), was, now).kept
    return {**kept, **changed}
