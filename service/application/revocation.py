"""Revocation: takes the lists that offline authorities sign, publishes them, and shuts revoked devices out.

An unverified list is taken in this order, the last three steps in one transaction:
    1. issuer: one of the catalog's offline authorities;
    2. list: signed by it, in form and in time (pki/revocation.py);
    3. succession: a higher number than the list in force, and nothing that was revoked is missing;
    4. devices: those whose birth certificate is on it are blocked, so that their operational certificates stop, too;
    5. audit and events.
Every process keeps the lists in force in memory: a revoked birth certificate is refused on each new connection and at
each claim. Closing live connections is the block's doing. Nobody unblocks a device whose birth certificate is revoked.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import structlog
from cryptography import x509

from pki.authority import issuer_key_id
from pki.chains import issued_by
from pki.errors import CrlError, CrlSuccessionError
from pki.ocsp import OcspAnswer, OcspResponder
from pki.revocation import Revocation, RevocationList, check_succession, verify_crl
from service.application.audit import Change
from service.application.clock import Clock
from service.application.device_changes import store_device
from service.application.events import Event, EventType, Signal, StoredEvent, wait_for
from service.application.identity import CertificateRefusedError
from service.application.revocation_repository import RevokedCertificate, StoredCrl
from service.application.standing import Standings
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.device import Device
from service.domain.errors import ConflictError, InvalidError, JsonValue, NotFoundError, VersionConflictError
from service.domain.operator import SERVICE, Actor

PUBLISHED = "crl-published"
DUE = "crl-due"
DUE_SHARE = 0.25  # of its lifetime, before the end: then it is time for the next list
RETRY_SECONDS = 1.0  # after the database could not be read
MAX_ANSWERING = 2  # OCSP requests, in threads
MAX_NAMED = 20  # serial numbers in one entry of the audit log
_log = structlog.get_logger()


class UnknownIssuerError(NotFoundError):
    """The catalog has no authority of this key id."""


class NoCrlError(NotFoundError):
    """The authority has published no revocation list yet."""


class CrlRefusedError(InvalidError):
    """The revocation list is not of the authority, or not of the expected form."""


class CrlSupersededError(ConflictError):
    """The revocation list is not newer than the one in force, or takes a revocation back."""


class RevokedIdevidError(CertificateRefusedError):
    """The birth certificate is revoked."""


class RevokedDeviceError(ConflictError):
    """The device's birth certificate is revoked, so that nobody can let it in again."""


class CrlState(StrEnum):
    """How a list stands."""

    NONE = "none"
    CURRENT = "current"
    DUE = "due"  # to be renewed soon
    OVERDUE = "overdue"  # those who check it trust nobody now


@dataclass(frozen=True, slots=True)
class CrlStatus:
    """An authority and its list.

    Attributes:
        issuer: name of the authority's key.
        issuer_key_id: its subject key identifier, hex.
        crl: the list in force; None before the first.
    """

    issuer: str
    issuer_key_id: str
    crl: RevocationList | None
    state: CrlState


class Revocations:
    """The revocation lists of the catalog's offline authorities.

    Args:
        issuers: certificate of each authority, by the name of its key.
        responder: answers OCSP requests about the birth certificates.
    """

    def __init__(
        self,
        unit_of_work: UnitOfWorkFactory,
        *,
        issuers: Mapping[str, x509.Certificate],
        responder: OcspResponder,
        standings: Standings,
        clock: Clock,
    ) -> None:
        self._unit_of_work = unit_of_work
        self._names = {issuer_key_id(certificate): name for name, certificate in issuers.items()}
        self._issuers = {issuer_key_id(certificate): certificate for certificate in issuers.values()}
        self._responder = responder
        self._standings = standings
        self._clock = clock
        self._in_force: dict[str, RevocationList] = {}
        self._published = Signal()  # another process published a list
        self._reminded: set[tuple[str, int]] = set()
        self._answering = asyncio.Semaphore(MAX_ANSWERING)

    async def load(self) -> None:
        """Read the lists in force; at start, and when another process published one."""
        async with self._unit_of_work(read_only=True) as work:
            lists = await work.revocations.crls()
        for stored in lists:
            if stored.issuer_key_id in self._issuers and self._is_newer(stored):
                verified = await asyncio.to_thread(self._verified, stored)
                # A list that this process published meanwhile is newer than what was read.
                if self._is_newer(stored):
                    self._in_force[stored.issuer_key_id] = verified

    async def begin(self, unverified_crls: Mapping[str, bytes]) -> None:
        """Take the ceremony's lists for authorities that have published none; one that is overdue is left alone.

        Args:
            unverified_crls: by the names of the authorities' keys.
        """
        for key_id, name in self._names.items():
            if name in unverified_crls and key_id not in self._in_force:
                with contextlib.suppress(CrlRefusedError, CrlSupersededError, VersionConflictError):
                    await self.publish(SERVICE, key_id, unverified_crls[name])

    def hear(self, stored: StoredEvent) -> None:
        """Follow the event feed."""
        event = stored.event
        if event.type is EventType.SECURITY and event.change == PUBLISHED:
            known = self._in_force.get(event.subject_id)
            if known is None or known.number != event.data.get("number"):
                self._published.set()

    async def run(self) -> None:
        """Take over what other processes publish, until cancelled, also across a restart of the database."""
        while True:
            ticket = self._published.ticket()
            try:
                await self.load()
            except Exception as error:  # noqa: BLE001 - whatever the driver raises: the next look may succeed
                _log.warning("crls_unread", error=repr(error))
                await wait_for(ticket, RETRY_SECONDS)
            else:
                await ticket.wait()

    def check(self, certificate: x509.Certificate) -> None:
        """Let a verified birth certificate pass that is not revoked.

        Raises:
            RevokedIdevidError: it is.
        """
        revocation = self._revocation(certificate)
        if revocation is not None:
            raise _revoked_error(f"{certificate.serial_number:x}", revocation.revoked_at, revocation.reason)

    def statuses(self) -> Sequence[CrlStatus]:
        """Return each authority with its list."""
        return [
            CrlStatus(name, key_id, self._in_force.get(key_id), self._state(self._in_force.get(key_id)))
            for key_id, name in self._names.items()
        ]

    def knows(self, key_id: str) -> bool:
        """Say whether an offline authority of the catalog has this key id."""
        return key_id in self._issuers

    def crl(self, key_id: str) -> RevocationList:
        """Return an authority's list in force.

        Raises:
            UnknownIssuerError: there is no such authority.
            NoCrlError: it has published none.
        """
        self._issuer(key_id)
        found = self._in_force.get(key_id)
        if found is None:
            raise NoCrlError(
                f"CRL: expected one of {self._names[key_id]}, found none; sign it by `tinyfleet pki crl renew`"
            )
        return found

    async def answer(self, unverified_request: bytes) -> OcspAnswer:
        """Answer an OCSP request, whatever it is; beside the event loop, a few at once."""
        async with self._answering:
            in_force, now = self._in_force.get(self._responder.issuer_key_id), self._clock.now()
            return await asyncio.to_thread(self._responder.respond, unverified_request, in_force, now=now)

    def try_later(self) -> OcspAnswer:
        """Answer an OCSP request that is one too many."""
        return self._responder.try_later()

    async def publish(self, actor: Actor, key_id: str, unverified_crl: bytes) -> CrlStatus:
        """Take an authority's next list; the steps are those of the module.

        Raises:
            UnknownIssuerError: step 1.
            CrlRefusedError: step 2.
            CrlSupersededError: step 3.
            VersionConflictError: another list came at the same time.
        """
        # Step 1: issuer.
        issuer = self._issuer(key_id)
        # Step 2: list.
        try:
            crl = await asyncio.to_thread(verify_crl, unverified_crl, issuer=issuer, now=self._clock.now())
        except CrlError as error:
            raise CrlRefusedError(str(error)) from error
        await self.load()  # verifies what is stored before the transaction, which others wait for
        async with self._unit_of_work() as work:
            before = await self._replace(work, key_id, crl)
            shut_out = await self._shut_out(work, actor, key_id, before=before, crl=crl)
            await self._tell(work, actor, key_id, before=before, crl=crl)
            sequence = await work.commit()
        self._in_force[key_id] = crl
        for device in shut_out:
            self._standings.change(device.device_id, device.state, sequence=sequence)
        return CrlStatus(self._names[key_id], key_id, crl, self._state(crl))

    async def keep_house(self, now: datetime) -> None:
        """Remind of lists that are due, each once as long as the process runs."""
        due = [status for status in self.statuses() if status.state in {CrlState.DUE, CrlState.OVERDUE} and status.crl]
        new = {(status.issuer_key_id, status.crl.number): status for status in due if status.crl is not None}
        new = {key: status for key, status in new.items() if key not in self._reminded}
        if not new:
            return
        async with self._unit_of_work() as work:
            for status in new.values():
                data: dict[str, JsonValue] = {"issuer": status.issuer, "state": status.state}
                work.record(Event(EventType.SECURITY, status.issuer_key_id, DUE, now, data))
            await work.commit()
        self._reminded |= new.keys()

    def _issuer(self, key_id: str) -> x509.Certificate:
        if key_id not in self._issuers:
            known = ", ".join(sorted(self._names.values()))
            raise UnknownIssuerError(f"issuer: expected the key id of {known}, found {key_id[:64]!r}")
        return self._issuers[key_id]

    def _is_newer(self, stored: StoredCrl) -> bool:
        known = self._in_force.get(stored.issuer_key_id)
        return known is None or known.number < stored.number

    def _verified(self, stored: StoredCrl) -> RevocationList:
        issuer = self._issuers[stored.issuer_key_id]
        return verify_crl(stored.der, issuer=issuer, now=stored.this_update, may_be_stale=True)

    def _state(self, crl: RevocationList | None) -> CrlState:
        now = self._clock.now()
        if crl is None:
            return CrlState.NONE
        if crl.next_update <= now:
            return CrlState.OVERDUE
        due_at = crl.next_update - DUE_SHARE * (crl.next_update - crl.this_update)
        return CrlState.DUE if due_at <= now else CrlState.CURRENT

    def _revocation(self, certificate: x509.Certificate) -> Revocation | None:
        for key_id, crl in self._in_force.items():
            found = crl.revoked.get(certificate.serial_number)
            if found is not None and issued_by(certificate, self._issuers[key_id]):
                return found
        return None

    async def _replace(self, work: UnitOfWork, key_id: str, crl: RevocationList) -> RevocationList | None:
        # Step 3: succession.
        stored = await work.revocations.crl(key_id)
        before = None if stored is None else self._in_force.get(key_id)
        if stored is not None and (before is None or before.der != stored.der):
            raise VersionConflictError(f"CRL: expected the list that was read, found number {stored.number}")
        if before is not None:
            try:
                check_succession(before, crl)
            except CrlSuccessionError as error:
                raise CrlSupersededError(str(error)) from error
        replaced = None if before is None else before.number
        following = StoredCrl(key_id, crl.number, crl.der, crl.this_update, crl.next_update)
        await work.revocations.put_crl(following, replaces=replaced)
        return before

    async def _shut_out(
        self, work: UnitOfWork, actor: Actor, key_id: str, *, before: RevocationList | None, crl: RevocationList
    ) -> Sequence[Device]:
        # Step 4: devices.
        known = {} if before is None else before.revoked
        changed = {f"{serial:x}": found for serial, found in crl.revoked.items() if known.get(serial) != found}
        devices = {
            device.idevid_serial: device
            for device in await work.devices.of_idevids_locked(list(changed))
            if issued_by(_birth_certificate(device), self._issuers[key_id])
        }
        await work.revocations.put(
            [
                RevokedCertificate(key_id, serial, _id_of(devices.get(serial)), found.revoked_at, found.reason)
                for serial, found in changed.items()
            ]
        )
        await work.revocations.remove(key_id, [f"{serial:x}" for serial in known.keys() - crl.revoked.keys()])
        return [
            after
            for serial, device in devices.items()
            if (after := await self._block(work, actor, device, reason=changed[serial].reason)) is not None
        ]

    async def _block(self, work: UnitOfWork, actor: Actor, device: Device, *, reason: str) -> Device | None:
        if not device.state.may_connect:
            return None
        now, why = self._clock.now(), f"IDevID revoked: {reason}"
        after = device.block(why, now)
        await store_device(work, actor, device, after, change="blocked", at=now, facts={"reason": why})
        return after

    async def _tell(
        self, work: UnitOfWork, actor: Actor, key_id: str, *, before: RevocationList | None, crl: RevocationList
    ) -> None:
        # Step 5: audit and events.
        now, known = self._clock.now(), set[int]() if before is None else set(before.revoked)
        entry = Change(
            "crl.publish",
            key_id,
            before={} if before is None else {"number": before.number},
            after={
                "issuer": self._names[key_id],
                "number": crl.number,
                "next_update": crl.next_update.isoformat(),
                "revoked": _named(set(crl.revoked) - known),
                "released": _named(known - set(crl.revoked)),
            },
        )
        await work.audit.add(actor, entry, at=now)
        data: dict[str, JsonValue] = {"issuer": self._names[key_id], "number": crl.number, "revoked": len(crl.revoked)}
        work.record(Event(EventType.SECURITY, key_id, PUBLISHED, now, data))


async def check_not_revoked(work: UnitOfWork, device: Device) -> None:
    """Let a device pass whose birth certificate is not revoked; asked before it is unblocked.

    Raises:
        RevokedDeviceError: it is.
    """
    revoked = await work.revocations.of_device(device.device_id)
    if revoked is not None:
        raise RevokedDeviceError(
            f"device {device.device_id[:16]}…: expected an IDevID in force, found it revoked since "
            f"{revoked.revoked_at:%FT%TZ} ({revoked.reason})"
        )


async def check_birth_certificate(work: UnitOfWork, device: Device, *, issuer_key_id: str) -> None:
    """Let a new device pass whose birth certificate is not revoked; asked when it is claimed.

    Args:
        work: the transaction that claims it.
        device: with a verified birth certificate.
        issuer_key_id: of the authority that verified it, whatever the certificate says; `DevicePeer.issuer_key_id`.

    Raises:
        RevokedIdevidError: it is.
    """
    revoked = await work.revocations.find(issuer_key_id, device.idevid_serial)
    if revoked is not None:
        raise _revoked_error(device.idevid_serial, revoked.revoked_at, revoked.reason)


def _revoked_error(serial: str, revoked_at: datetime, reason: str) -> RevokedIdevidError:
    since = f"{revoked_at:%FT%TZ} ({reason})"
    return RevokedIdevidError(f"IDevID {serial}: expected one in force, found it revoked since {since}")


def _birth_certificate(device: Device) -> x509.Certificate:
    return x509.load_pem_x509_certificates(device.idevid_chain.encode())[0]


def _id_of(device: Device | None) -> str:
    return "" if device is None else device.device_id


def _named(serials: set[int]) -> list[JsonValue]:
    """Name serial numbers, as many as an entry of the audit log takes."""
    named: list[JsonValue] = [f"{serial:x}" for serial in sorted(serials)[:MAX_NAMED]]
    return named if len(serials) <= MAX_NAMED else [*named, f"and {len(serials) - MAX_NAMED} more"]
