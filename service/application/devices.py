"""Use cases of claimed devices: show, move, block, unblock, decommission."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from protocol.geometry import Slot
from service.application.approvals import Approvals, Outcome
from service.application.attribute_repository import Attributes
from service.application.clock import Clock
from service.application.device_actions import BLOCK, CLEAR_CLONE, DECOMMISSION, UNBLOCK
from service.application.device_changes import store_device
from service.application.device_repositories import AttestationRecord
from service.application.presence import Presence
from service.application.products import check_version
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.device import Device, DeviceState
from service.domain.operator import Actor
from service.domain.product import DeviceGroup


class Connectivity(Protocol):
    """What the gateway says of connections; part of `DeviceMessenger`."""

    def is_connected(self, device_id: str) -> bool:
        """Say whether the device holds a connection to this process."""


@dataclass(frozen=True, slots=True)
class InstalledImage:
    """What runs in a slot.

    Attributes:
        sha256: of the package, lower-case hex.
        name: `name@version`, or None where no metadata in force lists it.
    """

    sha256: str
    name: str | None


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device and what is known around it.

    Attributes:
        last_seen: newest time that this process knows, UTC.
        connected: whether it holds an MQTT connection to this process.
        installed: by the device's own signed or authenticated word.
        attestation: last result; None where it was not asked for or there is none.
        attributes: values by name; empty where they were not asked for.
    """

    device: Device
    group: DeviceGroup
    last_seen: datetime | None
    connected: bool
    installed: Mapping[Slot, InstalledImage] = field(default_factory=dict)
    attestation: AttestationRecord | None = None
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeviceSelection:
    """Which devices to list; None stands for all."""

    group: str | None = None  # id, or name if it is unique
    state: DeviceState | None = None
    suspected_clone: bool | None = None


class Devices:
    """Claimed devices."""

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        presence: Presence,
        connectivity: Connectivity,
        approvals: Approvals,
        clock: Clock,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._approvals = approvals
        self._presence = presence
        self._connectivity = connectivity
        self._clock = clock

    async def page(self, selection: DeviceSelection, *, after_id: str | None, limit: int) -> Sequence[DeviceView]:
        """Return at most `limit` devices by id.

        Raises:
            UnknownGroupError: there is no such group.
            AmbiguousGroupError: several products have a group of this name.
        """
        async with self._unit_of_work(read_only=True) as work:
            group = None if selection.group is None else await work.products.get_group(selection.group)
            devices = await work.devices.page(
                after_id=after_id,
                limit=limit,
                group_id=None if group is None else group.group_id,
                state=selection.state,
                suspected_clone=selection.suspected_clone,
            )
            groups = {name: await work.products.get_group(name) for name in {device.group_id for device in devices}}
            installed = await _installed(work, [device.device_id for device in devices])
        return [
            self._view(device, groups[device.group_id], installed=installed.get(device.device_id, {}))
            for device in devices
        ]

    async def get(self, id_or_prefix: str) -> DeviceView:
        """Return a device with its last attestation result.

        Raises:
            UnknownDeviceError: there is none.
            AmbiguousDeviceError: several begin so.
        """
        async with self._unit_of_work(read_only=True) as work:
            device = await work.devices.get(id_or_prefix)
            group = await work.products.get_group(device.group_id)
            installed = await _installed(work, [device.device_id])
            attestation = await work.attestations.newest(device.device_id)
            attributes = await work.attributes.of([device.device_id])
        view = self._view(device, group, installed=installed.get(device.device_id, {}))
        return replace(view, attestation=attestation, attributes=attributes.get(device.device_id, {}))

    async def move(self, actor: Actor, id_or_prefix: str, *, group_id: str, based_on: int | None) -> None:
        """Move a device to another device group.

        Raises:
            UnknownDeviceError: there is no such device.
            UnknownGroupError: there is no such group.
            VersionConflictError: the device changed since the version that the caller saw.
        """
        async with self._unit_of_work() as work:
            before = await work.devices.get(id_or_prefix)
            check_version(based_on, before.version)
            group = await work.products.get_group(group_id)
            await self._save(work, actor, before, before.move(group.group_id), change="moved")

    async def block(self, actor: Actor, id_or_prefix: str, *, reason: str) -> Outcome:
        """Block a device and close its connections at once; blocking it again changes nothing.

        Errors of this and the three that follow: those of `Approvals.perform`, and

        Raises:
            UnknownDeviceError: there is none.
            FinalStateError: it was moved to another catalog, or decommissioned.
        """
        return await self._approvals.perform(actor, BLOCK, id_or_prefix, {"reason": reason})

    async def unblock(self, actor: Actor, id_or_prefix: str) -> Outcome:
        """Let a blocked device in again; a suspicion that it is a clone stays."""
        return await self._approvals.perform(actor, UNBLOCK, id_or_prefix, {})

    async def decommission(self, actor: Actor, id_or_prefix: str, *, reason: str) -> Outcome:
        """Take a device out of service for good: it is never admitted or claimed again, by nobody's leave."""
        return await self._approvals.perform(actor, DECOMMISSION, id_or_prefix, {"reason": reason})

    async def clear_clone(self, actor: Actor, id_or_prefix: str, *, reason: str) -> Outcome:
        """Take back the suspicion that two live devices hold the identity; a block stays."""
        return await self._approvals.perform(actor, CLEAR_CLONE, id_or_prefix, {"reason": reason})

    async def _save(self, work: UnitOfWork, actor: Actor, before: Device, after: Device, *, change: str) -> None:
        if await store_device(work, actor, before, after, change=change, at=self._clock.now()):
            await work.commit()

    def _view(self, device: Device, group: DeviceGroup, *, installed: Mapping[Slot, InstalledImage]) -> DeviceView:
        return DeviceView(
            device=device,
            group=group,
            last_seen=self._presence.last_seen(device.device_id, device.last_seen_at),
            connected=self._connectivity.is_connected(device.device_id),
            installed=installed,
        )


async def _installed(work: UnitOfWork, device_ids: Sequence[str]) -> dict[str, dict[Slot, InstalledImage]]:
    digests = await work.installed.of(device_ids)
    listed = await work.metadata.images_of({digest for slots in digests.values() for digest in slots.values()})
    names = {digest: target.custom.name for digest, target in listed.items()}
    return {
        device_id: {slot: InstalledImage(digest, names.get(digest)) for slot, digest in slots.items()}
        for device_id, slots in digests.items()
    }
