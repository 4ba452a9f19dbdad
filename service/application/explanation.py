"""Why is this device not updating? What the service knows, in the order in which an operator would look."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from service.application.clock import Clock
from service.application.device_identity import DeviceIdentities
from service.application.devices import Devices, DeviceView
from service.application.rollout_facts import DeviceRolloutFacts, RolloutFacts
from service.domain.attestation import Verdict
from service.domain.device import Device


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer.

    Attributes:
        rollout: what rollouts mean for the device.
        reasons: empty if the device is updating and nothing is in the way.
    """

    device_id: str
    rollout: DeviceRolloutFacts
    reasons: tuple[str, ...]

    @property
    def updating(self) -> bool:
        """Whether an action is in progress."""
        return self.rollout.updating


class Explanations:
    """Explains devices.

    Args:
        offline_after: a device that was not heard of for so long counts as offline.
    """

    def __init__(
        self,
        devices: Devices,
        facts: RolloutFacts,
        *,
        identities: DeviceIdentities,
        clock: Clock,
        offline_after: timedelta,
    ) -> None:
        self._devices = devices
        self._identities = identities
        self._facts = facts
        self._clock = clock
        self._offline_after = offline_after

    async def explain(self, id_or_prefix: str) -> Explanation:
        """Explain one device.

        Raises:
            UnknownDeviceError: there is none.
            AmbiguousDeviceError: several begin so.
        """
        view = await self._devices.get(id_or_prefix)
        rollout = await self._facts.for_device(view.device.device_id, group_id=view.group.group_id)
        trusted = await self._identities.has_trusted_issuer(view.device)
        reasons = (*self._obstacles(view, issuer_trusted=trusted), *rollout.reasons)
        return Explanation(view.device.device_id, rollout, reasons)

    def _obstacles(self, view: DeviceView, *, issuer_trusted: bool) -> Iterator[str]:
        device, now = view.device, self._clock.now()
        yield from _registry_obstacles(device)
        if view.attestation is None:
            yield "not attested: it has never asked for a certificate"
        elif view.attestation.appraisal.verdict is Verdict.REFUSED:
            for reason in view.attestation.appraisal.reasons:
                yield f"refused at attestation since {_time(view.attestation.since)}: {reason}"
        if not issuer_trusted:
            yield "its certificate is by a generation of the issuing CA that is trusted no longer"
        elif device.certificate_not_after is not None and device.certificate_not_after <= now:
            yield f"its certificate ended at {_time(device.certificate_not_after)}, and it got no new one"
        if not view.connected and (view.last_seen is None or now - view.last_seen > self._offline_after):
            yield "never heard of" if view.last_seen is None else f"offline since {_time(view.last_seen)}"
        if not view.group.takes_updates:
            yield f"its device group {view.group.name} takes no updates: {view.group.policy.update_policy}"


def _registry_obstacles(device: Device) -> Iterator[str]:
    if device.decommissioned_at is not None:
        yield f"decommissioned since {_time(device.decommissioned_at)}: it is out of service for good"
    if device.moved_at is not None:
        yield f"moved to {device.moved_to} since {_time(device.moved_at)}"
    if device.blocked_at is not None:
        yield f"blocked since {_time(device.blocked_at)}: {device.blocked_reason}"


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
