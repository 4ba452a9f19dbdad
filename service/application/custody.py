"""Whose the devices are: copies of the vouchers that they were given, and devices that leave for another catalog.

A device leaves in three steps, each by somebody else: the service shuts it out (here), the operator signs its release
with the catalog's root key, which is offline, and the manufacturer gives the other catalog a voucher for it.

The service shuts a device out only if, in this order:
    1. it is in good standing: a blocked device is unblocked first, so that nobody moves a stolen one by the way;
    2. a copy of its voucher is here: the release ends that very voucher, so that it cannot be used a second time;
    3. it is still here: not moved elsewhere, not decommissioned.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from protocol.document import peek_document
from protocol.voucher import MAX_VOUCHER_BYTES, VOUCHER_PAYLOAD_TYPE, Voucher
from service.application.approvals import Approvals, Arguments, Done, Outcome, Subject
from service.application.clock import Clock
from service.application.device_changes import store_device
from service.application.standing import Standings
from service.application.unit_of_work import UnitOfWork, UnitOfWorkFactory
from service.domain.device import Device, DeviceState
from service.domain.errors import ConflictError, InvalidError, JsonValue
from service.domain.operator import Actor, Role

RELEASE = "device.release"
CLOCK_DIFFERENCE = timedelta(days=1)  # of a manufacturer's, ahead of the service's


class VoucherMismatchError(InvalidError):
    """The voucher is for another device or another catalog, or older than the one that is kept."""


class SameCatalogError(InvalidError):
    """A device is released to another catalog, not to the one that has it."""


class NoVoucherError(ConflictError):
    """No copy of the device's voucher is kept, so that nothing can say which voucher a release ends."""


class NotInGoodStandingError(ConflictError):
    """The device is blocked; whoever lets it go must let it in first."""


class NotReleasedError(ConflictError):
    """The device has not been released to another catalog."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """The catalog that gets a device.

    Attributes:
        catalog_id: GUID.
        name: at most 50 characters.
        fingerprint: SHA-256 of its X.509 root, lower-case hex.
    """

    catalog_id: str
    name: str
    fingerprint: str

    @property
    def label(self) -> str:
        """What the registry keeps; at most 152 characters."""
        return f"{self.name} {self.catalog_id} {self.fingerprint}"

    @classmethod
    def of_label(cls, label: str) -> "Recipient":
        """Return the catalog that a label names."""
        name, catalog_id, fingerprint = label.rsplit(" ", 2)
        return cls(catalog_id, name, fingerprint)


@dataclass(frozen=True, slots=True)
class Departure:
    """A device that was released; what its signed release must say.

    Attributes:
        voucher_sequence: of the voucher that it had here.
        released_at: UTC, aware.
    """

    device_id: str
    voucher_sequence: int
    released_at: datetime
    recipient: Recipient


class Custody:
    """Vouchers that devices were given, and devices that leave.

    Args:
        catalog_id: GUID of this catalog.
    """

    def __init__(self, unit_of_work: UnitOfWorkFactory, *, catalog_id: str, approvals: Approvals, clock: Clock) -> None:
        self._unit_of_work = unit_of_work
        self._catalog_id = catalog_id
        self._approvals = approvals
        self._clock = clock

    async def keep_voucher(self, actor: Actor, id_or_prefix: str, unverified_voucher: bytes) -> None:
        """Keep a copy of the voucher that a device was given.

        Its signature is not checked here: the voucher authority is the manufacturer's, and the device checks it. Its
        sequence is the time of issue, so one of tomorrow is no voucher's, and would keep the true ones out.

        Raises:
            UnknownDeviceError: there is no such device.
            FinalStateError: the device was moved or decommissioned.
            DocumentError: no voucher.
            VoucherMismatchError: for another device or catalog, or older than the one that is kept, or of
                the future.
        """
        voucher = _peek(unverified_voucher)
        async with self._unit_of_work() as work:
            before = await work.devices.get(id_or_prefix)
            before.check_present()
            self._check_voucher(voucher, before)
            after = replace(before, voucher=unverified_voucher, version=before.version + 1)
            facts: dict[str, JsonValue] = {
                "voucher_sequence": voucher.sequence,
                "voucher_assertion": voucher.assertion,
                "voucher_sha256": voucher.digest,
            }
            await store_device(work, actor, before, after, change="vouched", at=self._clock.now(), facts=facts)
            await work.commit()

    def _check_voucher(self, voucher: Voucher, device: Device) -> None:
        if voucher.device_id != device.device_id:
            raise VoucherMismatchError(
                f"voucher: expected device {device.device_id[:16]}…, found {voucher.device_id[:16]}…"
            )
        if voucher.catalog_id != self._catalog_id:
            raise VoucherMismatchError(f"voucher: expected catalog {self._catalog_id}, found {voucher.catalog_id}")
        kept = 0 if device.voucher is None else _peek(device.voucher).sequence
        if voucher.sequence < kept:
            raise VoucherMismatchError(f"voucher: expected sequence {kept} or above, found {voucher.sequence}")
        latest = int((self._clock.now() + CLOCK_DIFFERENCE).timestamp())
        if voucher.sequence > latest:
            raise VoucherMismatchError(f"voucher: expected sequence {latest} or below, found {voucher.sequence}")

    async def release(self, actor: Actor, id_or_prefix: str, recipient: Recipient, *, reason: str) -> Outcome:
        """Shut a device out for good because another catalog gets it; two persons where the catalog says so.

        Released to the same catalog before, it is left as it is.

        Raises:
            SameCatalogError: the recipient is this catalog.
            UnknownDeviceError: there is none.
            NotInGoodStandingError: step 1 of the module.
            NoVoucherError: step 2.
            FinalStateError: step 3.
            ServiceError: those of `Approvals.perform`.
        """
        if recipient.catalog_id == self._catalog_id:
            raise SameCatalogError(f"release: expected another catalog than {self._catalog_id}, found this one")
        arguments = {
            "catalog_id": recipient.catalog_id,
            "catalog_name": recipient.name,
            "fingerprint": recipient.fingerprint,
            "reason": reason,
        }
        return await self._approvals.perform(actor, RELEASE, id_or_prefix, arguments)

    async def departure(self, id_or_prefix: str) -> Departure:
        """Return what the signed release of a device must say.

        Raises:
            UnknownDeviceError: there is none.
            NotReleasedError: it is still here.
        """
        async with self._unit_of_work(read_only=True) as work:
            return _departure(await work.devices.get(id_or_prefix))


@dataclass(frozen=True, slots=True)
class ReleaseDevice:
    """Shut a device out because another catalog gets it; implements `ExecutableAction`."""

    standings: Standings
    clock: Clock
    name: str = RELEASE
    role: Role = Role.ADMIN

    async def find(self, work: UnitOfWork, subject_id: str) -> Subject:
        """See `ExecutableAction.find`."""
        device = await work.devices.get(subject_id)
        return Subject(device.device_id, device.version)

    async def check(self, work: UnitOfWork, subject_id: str, arguments: Arguments) -> None:
        """See `ExecutableAction.check`; errors as `Custody.release`."""
        _depart(await work.devices.get(subject_id), _recipient(arguments), self.clock.now())

    async def execute(self, work: UnitOfWork, actor: Actor, subject_id: str, arguments: Arguments) -> Done:
        """See `ExecutableAction.execute`; errors as `Custody.release`."""
        before, now, recipient = await work.devices.get(subject_id), self.clock.now(), _recipient(arguments)
        if before.state is DeviceState.MOVED and before.moved_to == recipient.label:
            return Done()
        after = _depart(before, recipient, now)
        facts = {"reason": arguments["reason"], "voucher_sequence": _sequence(before)}
        await store_device(work, actor, before, after, change="released", at=now, facts=facts)
        return Done(lambda sequence: self.standings.change(after.device_id, after.state, sequence=sequence))


def _depart(device: Device, recipient: Recipient, at: datetime) -> Device:
    # Step 1: good standing.
    if device.state is DeviceState.BLOCKED:
        raise NotInGoodStandingError(
            f"device {device.device_id[:16]}…: expected in good standing, found it blocked: {device.blocked_reason}"
        )
    # Step 2: voucher.
    _sequence(device)
    # Step 3: still here.
    return device.depart(recipient.label, at)


def _departure(device: Device) -> Departure:
    if device.moved_at is None:
        raise NotReleasedError(
            f"device {device.device_id[:16]}…: expected it released to another catalog, found it {device.state}"
        )
    return Departure(device.device_id, _sequence(device), device.moved_at, Recipient.of_label(device.moved_to))


def _sequence(device: Device) -> int:
    if device.voucher is None:
        raise NoVoucherError(f"device {device.device_id[:16]}…: expected a copy of its voucher, found none")
    return _peek(device.voucher).sequence


def _recipient(arguments: Arguments) -> Recipient:
    return Recipient(str(arguments["catalog_id"]), str(arguments["catalog_name"]), str(arguments["fingerprint"]))


def _peek(unverified_voucher: bytes) -> Voucher:
    return peek_document(unverified_voucher, VOUCHER_PAYLOAD_TYPE, Voucher, max_bytes=MAX_VOUCHER_BYTES)
