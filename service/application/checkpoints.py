"""Signs the log's checkpoints in the background and collects what witnesses say of them.

    the log has grown → the root of its newest size → signed by the log → sent to every witness at once
    → enough of them have cosigned: stored, and proofs of what it covers are given out

A witness that is down delays proofs alone, and only where the quorum needs it; the round is tried again with growing
pauses. Nothing is kept but the finished checkpoint: a round that was cut off is begun anew, and a witness that has
cosigned before cosigns the same size again (C2SP tlog-witness). Several processes may do the same; what they sign is
what is committed, so it is the same.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

import structlog

from protocol.errors import ProtocolError
from protocol.merkle import consistency_ranges, prove
from protocol.notes import (
    NoteSignature,
    NoteSigner,
    UnverifiedNote,
    VerifierKey,
    parse_note,
    parse_signatures,
    verify_signatures,
)
from protocol.tiles import keys_for, reader
from protocol.tlog import AddCheckpoint, Checkpoint, parse_checkpoint, with_signatures
from protocol.transparency import LogPolicy, verify_checkpoint
from service.application.clock import Clock
from service.application.events import Event, EventType, Signal, StoredEvent, wait_for
from service.application.transparency import APPENDED, LOG_SUBJECT, policy_in_force
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.errors import ServiceError

COSIGNED = "cosigned"
LOOK_SECONDS = 60.0  # between two looks without a change: a root may have brought another policy
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 60.0
MAX_ATTEMPTS = 3  # a witness says which size it has seen; another process may be faster again
_log = structlog.get_logger()


class LogDamagedError(ServiceError):
    """The tree is not what was signed before; nothing that contradicts it is signed."""


class WitnessError(ServiceError):
    """A witness could not be reached, or did not answer as agreed."""


@dataclass(frozen=True, slots=True)
class Witness:
    """Somebody who watches that the log only grows.

    Attributes:
        url: submission prefix, without a slash at its end.
    """

    key: VerifierKey
    url: str


@dataclass(frozen=True, slots=True)
class WitnessAnswer:
    """What a witness says of a checkpoint.

    Attributes:
        cosignatures: its signature lines; empty where it wants another old size.
        seen_size: that size.
    """

    cosignatures: str = ""
    seen_size: int | None = None


@dataclass(frozen=True, slots=True)
class WitnessState:
    """How a witness stands with this process.

    Attributes:
        size: of the last checkpoint that it is known to have cosigned.
        problem: what went wrong last, empty when nothing did.
        at: when that was, UTC, aware; None before the first round.
    """

    name: str
    url: str
    size: int = 0
    problem: str = ""
    at: datetime | None = None


class WitnessClient(Protocol):
    """Speaks to witnesses (C2SP tlog-witness)."""

    async def add_checkpoint(self, url: str, body: bytes) -> WitnessAnswer:
        """Send a checkpoint to a witness.

        Args:
            url: submission prefix.
            body: of add-checkpoint.

        Raises:
            WitnessError: it did not answer, or refused.
        """

    async def close(self) -> None:
        """Close the connections."""


@dataclass(slots=True)
class _Watched:
    """A witness and how it stands."""

    witness: Witness
    state: WitnessState
    seen_size: int = field(default=0)


class Checkpoints:
    """Makes checkpoints until they cover the whole log.

    Args:
        unit_of_work: opens transactions.
        signer: the log's key.
        witnesses: whom to send checkpoints to; the policy says how many of them count.
        client: speaks to them.
        clock: of the service.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        signer: NoteSigner,
        witnesses: Sequence[Witness],
        client: WitnessClient,
        clock: Clock,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._signer = signer
        self._client = client
        self._clock = clock
        self._watched = [_Watched(each, WitnessState(each.key.name, each.url)) for each in witnesses]
        self._changed = Signal()

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed: what was appended, by whichever process, wakes this one."""
        if stored.event.subject_id == LOG_SUBJECT and stored.event.change == APPENDED:
            self._changed.set()

    def states(self) -> Sequence[WitnessState]:
        """Return how the witnesses stand."""
        return [each.state for each in self._watched]

    async def run(self) -> None:
        """Work until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        try:
            while True:
                ticket = self._changed.ticket()
                if await self._work_once():
                    pause, seconds = FIRST_PAUSE_SECONDS, LOOK_SECONDS
                else:
                    seconds, pause = pause, min(2 * pause, LONGEST_PAUSE_SECONDS)
                await wait_for(ticket, seconds)
        finally:
            await self._client.close()

    async def _work_once(self) -> bool:
        try:
            return await self.work()
        except Exception:  # noqa: BLE001 - a round that failed, on a database that is away, must not be the last one
            _log.exception("checkpoint_failed")
            return False

    async def work(self) -> bool:
        """Do one round; False if the log is not covered by a checkpoint that satisfies the policy.

        Raises:
            LogDamagedError: the tree contradicts the last checkpoint.
        """
        async with self._unit_of_work(read_only=True) as work:
            policy = await policy_in_force(work) or self._own_policy()
            size, newest = await work.log.size(), await work.log.checkpoint()
            if size == 0 or (newest is not None and _covers(newest, size, policy)):
                return True
            head = Checkpoint(self._signer.key.name, size, await _root(work, size))
            await _check_last(work, newest)
        text = head.text()
        signed = UnverifiedNote(text, (self._signer.sign(text),)).encode()
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(each, signed, text, size)) for each in self._watched]
        cosigned = with_signatures(signed, [signature for task in asked for signature in task.result()])
        if not _covers(cosigned, size, policy):
            _log.warning("checkpoint_not_cosigned", size=size, quorum=policy.quorum, problems=self._problems())
            return False
        await self._store(cosigned, size)
        return True

    async def _store(self, checkpoint: bytes, size: int) -> None:
        now = self._clock.now()
        async with self._unit_of_work() as work:
            await work.log.put_checkpoint(checkpoint, size=size, at=now)
            work.record(Event(EventType.RELEASE, LOG_SUBJECT, COSIGNED, now, {"size": size}))
            await work.commit()
        _log.info("checkpoint", size=size)

    async def _ask(self, watched: _Watched, signed: bytes, text: str, size: int) -> tuple[NoteSignature, ...]:
        """Return a witness's cosignature, verified; nothing where it gives none, and keep why."""
        witness, now = watched.witness, self._clock.now()
        try:
            signatures = await self._cosignatures(watched, signed, text, size)
        except (WitnessError, ProtocolError) as error:
            watched.state = WitnessState(witness.key.name, witness.url, watched.seen_size, str(error), now)
            return ()
        watched.seen_size = size
        watched.state = WitnessState(witness.key.name, witness.url, size, "", now)
        return signatures

    async def _cosignatures(self, watched: _Watched, signed: bytes, text: str, size: int) -> tuple[NoteSignature, ...]:
        key = watched.witness.key
        for _ in range(MAX_ATTEMPTS):
            if watched.seen_size > size:
                raise WitnessError(
                    f"witness {key.name}: expected to have seen at most {size} entries, found {watched.seen_size}: "
                    "the log has lost entries, or another process is ahead"
                )
            body = AddCheckpoint(watched.seen_size, await self._consistency(watched.seen_size, size), signed).encode()
            answer = await self._client.add_checkpoint(watched.witness.url, body)
            if answer.seen_size is None:
                signed_by, signatures = verify_signatures(text, parse_signatures(answer.cosignatures), [key])
                if key not in signed_by:
                    raise WitnessError(f"witness {key.name}: expected its cosignature, found those of others")
                return signatures
            watched.seen_size = answer.seen_size
        raise WitnessError(f"witness {key.name}: expected one size that it has seen, found another each time")

    async def _consistency(self, old_size: int, size: int) -> tuple[bytes, ...]:
        ranges = consistency_ranges(old_size, size)
        async with self._unit_of_work(read_only=True) as work:
            tiles = await work.log.tiles(keys_for(ranges))
        return tuple(prove(ranges, reader(tiles)))

    def _own_policy(self) -> LogPolicy:
        """Where the root asks for nothing, the log's own signature will do."""
        key = self._signer.key
        return LogPolicy(origin=key.name, log=str(key))

    def _problems(self) -> Mapping[str, str]:
        return {each.state.name: each.state.problem for each in self._watched if each.state.problem}


async def _root(work: UnitOfWork, size: int) -> bytes:
    ranges = [(0, size)]
    return prove(ranges, reader(await work.log.tiles(keys_for(ranges))))[0]


async def _check_last(work: UnitOfWork, newest: bytes | None) -> None:
    """Check that the tree still is what was signed: a log signs no contradiction (C2SP tlog-checkpoint)."""
    if newest is None:
        return
    last = parse_checkpoint(parse_note(newest).text)
    found = await _root(work, last.size)
    if found != last.root:
        raise LogDamagedError(
            f"log: expected root {last.root.hex()[:16]}… when it was {last.size} long, found {found.hex()[:16]}…"
        )


def _covers(note: bytes, size: int, policy: LogPolicy) -> bool:
    try:
        return verify_checkpoint(note, policy).checkpoint.size >= size
    except ProtocolError:
        return False
