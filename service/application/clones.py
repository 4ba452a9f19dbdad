"""Suspected clones: what becomes of a device that two live ones seem to be.

Suspicions arise where devices connect and must cost nothing there, so they are collected in memory and stored in
batches; those that arise in a transaction, at attestation and from version manifests, are stored in it. A device is
told of once, until an operator clears it. What each signal is: `service.domain.clone`.
"""

import asyncio
from datetime import datetime

import structlog

from service.application.audit import Change
from service.application.clock import Clock
from service.application.device_changes import store_device
from service.application.events import Event, EventType
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.clone import CertificateWatch, CloneSuspicion, TakeOverWatch
from service.domain.device import Device
from service.domain.errors import JsonValue
from service.domain.operator import SERVICE

FLUSH_SECONDS = 1.0
MAX_WAITING = 1_000  # devices with a suspicion that is not stored yet; more wait until they are seen again
_log = structlog.get_logger()


class Clones:
    """Collects and stores suspicions.

    Attributes:
        blocks: whether a suspected device is blocked as well.
    """

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, clock: Clock, blocks: bool) -> None:
        self._unit_of_work = unit_of_work
        self._clock = clock
        self.blocks = blocks
        self._certificates = CertificateWatch()
        self._take_overs = TakeOverWatch()
        self._waiting: dict[str, CloneSuspicion] = {}  # by device id

    def used(self, device_id: str, certificate_der: bytes, at: datetime) -> None:
        """Take note of a certificate with which a device came in; returns at once."""
        self._wait(device_id, self._certificates.note(device_id, certificate_der, at))

    def took_over(self, device_id: str, *, source: str, displaced: str, at: datetime) -> None:
        """Take note of an MQTT connection that had to give way to a newer one; returns at once."""
        self._wait(device_id, self._take_overs.note(device_id, source=source, displaced=displaced, at=at))

    def _wait(self, device_id: str, suspicion: CloneSuspicion | None) -> None:
        if suspicion is not None and (device_id in self._waiting or len(self._waiting) < MAX_WAITING):
            self._waiting.setdefault(device_id, suspicion)

    async def run(self) -> None:
        """Store suspicions, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - whatever the driver raises: the next flush may succeed
                _log.warning("clones_unwritten", error=repr(error))

    async def flush(self) -> None:
        """Store the suspicions that were collected; one that cannot be stored goes behind the others."""
        while self._waiting:
            device_id = next(iter(self._waiting))
            suspicion = self._waiting.pop(device_id)
            try:
                await self._store(device_id, suspicion)
            except Exception:
                self._wait(device_id, suspicion)
                raise

    async def _store(self, device_id: str, suspicion: CloneSuspicion) -> None:
        async with self._unit_of_work() as work:
            device = (await work.devices.find_many([device_id], lock=True)).get(device_id)
            if device is not None:
                await self.suspect(work, device, suspicion)
                await work.commit()

    async def suspect(self, work: UnitOfWork, device: Device, suspicion: CloneSuspicion) -> None:
        """Store a suspicion in a transaction, unless there is one; no commit.

        Args:
            work: holds the device's row.
            device: as it was read in this transaction.
            suspicion: what raised it.
        """
        after = device.suspect(suspicion.text, self._clock.now())
        if after is not device and device.state.may_connect:
            await work.devices.save_suspicion(after)
            await self.tell(work, after, suspicion)

    async def tell(self, work: UnitOfWork, device: Device, suspicion: CloneSuspicion) -> None:
        """Tell of a suspicion that is stored with the device, and block the device where that is the rule; no commit.

        Args:
            work: holds the device's row.
            device: with the suspicion.
            suspicion: what raised it.
        """
        now = self._clock.now()
        facts: dict[str, JsonValue] = {"signal": suspicion.signal, "detail": suspicion.detail}
        await work.audit.add(SERVICE, Change("device.clone-suspected", device.device_id, after=facts), at=now)
        work.record(Event(EventType.SECURITY, device.device_id, "clone-suspected", now, facts))
        if self.blocks:
            blocked = device.block("suspected clone", now)
            await store_device(work, SERVICE, device, blocked, change="blocked", at=now)
