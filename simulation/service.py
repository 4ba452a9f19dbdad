"""The virtual service: the use cases of the real one, composed on storage in memory under a virtual clock.

Everything here is what a process holds; `Service` is made anew on the same database when the service is killed and
started again. What follows the event feed does so at the same virtual moment, after the step that committed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import cast

from tuf.api.metadata import Root

from protocol.document import parse_document
from protocol.geometry import Slot
from protocol.identity import DeviceId
from protocol.messages import PollReply, VersionManifest
from protocol.updates import DirectorDevice, Order
from service.application.clones import Clones
from service.application.director import DirectedImage, Director, SignedSet
from service.application.events import EventFeed, StoredEvent
from service.application.manifests import MAX_MANIFEST_BYTES, Manifests
from service.application.messaging import DeviceMessenger
from service.application.model_health import ModelHealth
from service.application.poll import PendingActions, Poll, PollPacing
from service.application.presence import Presence
from service.application.products import Products
from service.application.reports import Reports
from service.application.repository import ImageRepository
from service.application.rollout_ticks import RolloutTicks
from service.application.rollouts import Rollouts
from service.application.standing import Standings
from service.domain.device import Device
from service.worker import Waker, Worker, WorkerPorts
from simulation.admission import Admission
from simulation.clock import VirtualClock
from simulation.driving import drive
from simulation.entropy import SeededEntropy
from simulation.images import Catalogue
from simulation.storage.database import MemoryDatabase, MemoryEventReader

LAST_SEEN_FLUSH_SECONDS = 10.0
HEALTH_KEPT = timedelta(days=90)
TICK_SECONDS = 10.0  # longest time between two looks of the worker


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """What an operator may set of a virtual service.

    Attributes:
        pacing: of polls.
        tick_seconds: longest time between two looks of the worker at rollouts.
        blocks_clones: whether a device that two seem to be is blocked.
    """

    pacing: PollPacing = field(default_factory=PollPacing)
    tick_seconds: float = TICK_SECONDS
    blocks_clones: bool = False


class PlainDirector:
    """Stands for the Director's key: says for whom and what, and signs nothing. Implements `DirectorSigner`."""

    def follow(self, root: Root) -> None:
        """See `DirectorSigner.follow`: there is no root."""

    def sign_director_set(
        self,
        device: DirectorDevice,
        images: Sequence[DirectedImage],
        *,
        release: str,
        version: int,
        expires: datetime,
    ) -> SignedSet:
        """See `DirectorSigner.sign_director_set`."""
        wanted = tuple((each.slot, each.image.sha256) for each in images)
        head = {
            "device_id": device.device_id,
            "action_id": device.action_id,
            "attempt": device.attempt,
            "order": device.order.value,
            "shadow": None if device.shadow is None else device.shadow.model_dump(),
            "version": version,
            "expires": expires.isoformat(),
        }
        return SignedSet(_wanted_json(release, wanted), b"", json.dumps(head).encode())


class _NothingExpires:
    """Stands for the Image repository, whose metadata nobody signs."""

    async def refresh(self) -> datetime:
        """Say when metadata must be renewed next: never."""
        return datetime.max.replace(tzinfo=UTC)


class _Wakes:
    """Stands for the gateway: a hint reaches a device whose link stands. Implements a part of `DeviceMessenger`."""

    def __init__(self, wake: Callable[[str], bool]) -> None:
        self._wake = wake

    def notify(self, device_id: str, name: str, payload: bytes = b"") -> bool:
        """See `DeviceMessenger.notify`; the one hint that the service gives is to poll."""
        del name, payload
        return self._wake(device_id)


class Service:
    """One process of the virtual service.

    Args:
        database: outlives it.
        clock: the virtual time.
        entropy: of this process.
        catalogue: images that devices may have booted.
        wake: tells a device over its link to poll; returns whether it heard.
        settings: what an operator may set.
    """

    def __init__(
        self,
        database: MemoryDatabase,
        clock: VirtualClock,
        entropy: SeededEntropy,
        *,
        catalogue: Catalogue,
        wake: Callable[[str], bool],
        settings: ServiceSettings,
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._feed = EventFeed(MemoryEventReader(database))
        self._pending = PendingActions()
        self._poll = Poll(self._pending, pacing=settings.pacing, entropy=entropy)
        self.standings = Standings()
        self.presence = Presence(database, flush_seconds=LAST_SEEN_FLUSH_SECONDS)
        clones = Clones(database, clock=clock, blocks=settings.blocks_clones)
        self.admission = Admission(
            database, catalogue=catalogue, clones=clones, standings=self.standings, clock=clock, entropy=entropy
        )
        self.director = Director(database, signer=PlainDirector(), clock=clock, entropy=entropy)
        self.reports = Reports(database, clock=clock)
        self.manifests = Manifests(database, clones=clones, clock=clock, verify=_read_manifest)
        self.health = ModelHealth(database, clock=clock, kept=HEALTH_KEPT)
        self.rollouts = Rollouts(database, clock=clock, entropy=entropy)
        self.products = Products(database, clock=clock, entropy=entropy)
        self._ticks = RolloutTicks(database, clock=clock, entropy=entropy)
        ports = WorkerPorts(database, self._ticks, cast("ImageRepository", _NothingExpires()), clock)
        self._worker = Worker(ports, owner=entropy.guid(), longest_sleep_seconds=settings.tick_seconds)
        waker = Waker(self._pending, cast("DeviceMessenger", _Wakes(wake)))
        self._listeners = (self.standings.hear, self._pending.hear, waker.hear)

    def start(self) -> None:
        """Read what is stored, as the real service does before it listens."""
        drive(self._feed.start())
        drive(self.standings.load(self._database))
        drive(self._pending.load(self._database))
        for listener in self._listeners:
            self._feed.subscribe(listener)

    def subscribe(self, listener: Callable[[StoredEvent], None]) -> None:
        """Call a function with every event from now on."""
        self._feed.subscribe(listener)

    def follow(self) -> None:
        """Hand on what was committed, and forget what everybody has read."""
        while drive(self._feed.catch_up()):
            pass
        self._database.work.forget_events(self._feed.sequence)

    def work(self) -> float:
        """Let the worker do one bounded round.

        Returns:
            Seconds until the next one; 0 if there is more to do at once.
        """
        if drive(self._worker.work()):
            return 0.0
        look = drive(self._ticks.next_look())
        until = self._settings.tick_seconds if look is None else (look - self._clock.now()).total_seconds()
        return min(max(until, 0.0), self._settings.tick_seconds)

    def has_word_for(self, device_id: str, held: tuple[str, Order] | None) -> bool:
        """Say whether there is anything for a device but the action and the order that it obeys."""
        found = self._pending.first(device_id)
        return held != (None if found is None else (found.action_id, found.order))

    def devices_of(self, rollout_id: str) -> list[str]:
        """Return the devices with an unfinished action of a rollout."""
        return self._pending.devices_of(rollout_id)

    def poll(self, device_id: DeviceId) -> PollReply:
        """Answer a poll."""
        return self._poll.reply(device_id, fleet_size=self.standings.count())

    @property
    def poll_interval_seconds(self) -> float:
        """How often devices for which nothing waits are to poll now, before jitter."""
        return self._poll.interval_seconds(fleet_size=self.standings.count())


def _read_manifest(envelope: bytes, _device: Device) -> VersionManifest:
    """Take a manifest for what it says: nobody has signed it."""
    return parse_document(envelope, VersionManifest, max_bytes=MAX_MANIFEST_BYTES)


@lru_cache(maxsize=64)
def _wanted_json(release: str, wanted: tuple[tuple[Slot, str], ...]) -> bytes:
    """Return what the Director wants, once for all devices of a rollout."""
    return json.dumps({"release": release, "images": {slot.value: sha256 for slot, sha256 in wanted}}).encode()
