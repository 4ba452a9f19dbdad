"""Two live devices with one identity: what gives them away.

A device's key does not leave its root of trust, so two that prove the same identity are a copy and its original. What
one device cannot do, and two do all the time:
    - boot seed: come back to the random number of an earlier boot (RFC 9783 §4.1.3) after a later one was shown;
    - certificate: connect by a certificate that it has replaced, in turns with its successor;
    - take-over: end its own MQTT connection from another address, and that one from the first, again and again;
    - manifest: sign a version manifest with a counter that it has used, after a later one.
Each is told from what a single device does: a reboot shows a new seed once, a connection that was open during
re-keying may last but is not made again, a device that roams comes back from one address, a repeated message is the
same bytes.

The watches keep what they know in memory, bounded, and each sees one process's connections.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509

from service.domain.device import Device

MAX_BOOT_SEEDS = 8
MAX_DETAIL_CHARACTERS = 500
REKEYING_GRACE = timedelta(minutes=15)  # for connections that a device was making when it took its new certificate
TAKE_OVERS = 6  # between the same two addresses
TAKE_OVER_WINDOW = timedelta(minutes=5)
MAX_WATCHED = 200_000  # devices, about 250 bytes each; the one that was not heard of for longest gives way


class CloneSignal(StrEnum):
    """What gave two devices away."""

    BOOT_SEED = "boot-seed"
    CERTIFICATE = "certificate"
    TAKE_OVER = "take-over"
    MANIFEST = "manifest"


@dataclass(frozen=True, slots=True)
class CloneSuspicion:
    """That two live devices hold one identity.

    Attributes:
        detail: what was expected and found, for an operator to read.
    """

    signal: CloneSignal
    detail: str

    @property
    def text(self) -> str:
        """Signal and detail as they are kept with the device."""
        return f"{self.signal}: {self.detail}"[:MAX_DETAIL_CHARACTERS]


def note_boot_seed(device: Device, seed: bytes | None, at: datetime) -> tuple[Device, CloneSuspicion | None]:
    """Take a boot seed into account.

    Args:
        device: as the registry knows it.
        seed: claim 268 of evidence that is fresh: signed by the identity key, over a nonce of this moment. Old
            evidence that somebody plays back must not come here. None if the evidence has no such claim.
        at: UTC, aware.

    Returns:
        The device with the seed and the suspicion, and the suspicion if this is what raised it.
    """
    if seed is None or (device.boot_seeds and device.boot_seeds[-1] == seed.hex()):
        return device, None
    shown = seed.hex()
    others = [known for known in device.boot_seeds if known != shown]
    after = device.boot((*others, shown)[-MAX_BOOT_SEEDS:])
    if shown not in device.boot_seeds:
        return after, None
    detail = f"expected the seed of a new boot, or {device.boot_seeds[-1][:16]}… of the last, found {shown[:16]}… again"
    return _suspected(after, CloneSuspicion(CloneSignal.BOOT_SEED, detail), at)


def _suspected(device: Device, suspicion: CloneSuspicion, at: datetime) -> tuple[Device, CloneSuspicion | None]:
    after = device.suspect(suspicion.text, at)
    return after, None if after is device else suspicion


@dataclass(slots=True)
class _Use:
    """Which certificates a device uses.

    Attributes:
        current: hash of the newest one, DER.
        since: when it was first used.
        former: hash of the one before it.
        former_again: serial of the former one, once it was used after the grace.
    """

    current: int
    since: datetime
    former: int | None = None
    former_again: str = ""


class CertificateWatch:
    """Finds devices that use a certificate and its successor in turns.

    A single device that once goes back to its former certificate, restored from a backup, is no clone; one that then
    uses the successor again is.
    """

    def __init__(self) -> None:
        self._uses: dict[str, _Use] = {}

    def note(self, device_id: str, certificate_der: bytes, at: datetime) -> CloneSuspicion | None:
        """Take a connection into account, when it is made.

        Args:
            device_id: whose certificate it is.
            certificate_der: LDevID of the connection, verified.
            at: UTC, aware.
        """
        mark, use = hash(certificate_der), self._uses.get(device_id)
        if use is not None and mark == use.current and not use.former_again:
            return None
        if use is None or mark not in {use.current, use.former}:
            self._uses.pop(device_id, None)
            self._uses[device_id] = _Use(mark, at, former=None if use is None else use.current)
            if len(self._uses) > MAX_WATCHED:
                del self._uses[next(iter(self._uses))]
        elif mark == use.former and at - use.since > REKEYING_GRACE:
            use.former_again = use.former_again or _serial(certificate_der)
        elif mark == use.current:
            del self._uses[device_id]
            return CloneSuspicion(
                CloneSignal.CERTIFICATE,
                f"expected the certificate {_serial(certificate_der)} alone, in use since {use.since:%FT%TZ}, "
                f"found {use.former_again} in turns with it",
            )
        return None


@dataclass(slots=True)
class _TakeOvers:
    """How often a device's connection went from one of two addresses to the other."""

    between: frozenset[str]
    since: datetime
    count: int = 0


class TakeOverWatch:
    """Finds devices whose MQTT connection goes to and fro between two addresses."""

    def __init__(self) -> None:
        self._seen: dict[str, _TakeOvers] = {}

    def note(self, device_id: str, *, source: str, displaced: str, at: datetime) -> CloneSuspicion | None:
        """Take one take-over into account.

        Args:
            device_id: who connected.
            source: its IP address.
            displaced: address of the connection that had to give way; the same one is a flapping network.
            at: UTC, aware.
        """
        if source == displaced:
            return None
        between = frozenset((source, displaced))
        seen = self._seen.get(device_id)
        if seen is None or seen.between != between or at - seen.since > TAKE_OVER_WINDOW:
            self._seen.pop(device_id, None)
            seen = self._seen[device_id] = _TakeOvers(between, at)
            if len(self._seen) > MAX_WATCHED:
                del self._seen[next(iter(self._seen))]
        seen.count += 1
        if seen.count < TAKE_OVERS:
            return None
        del self._seen[device_id]
        return CloneSuspicion(
            CloneSignal.TAKE_OVER,
            f"expected one MQTT connection, found it taken over {seen.count} times since {seen.since:%FT%TZ} "
            f"between {' and '.join(sorted(between))}",
        )


def manifest_suspicion(*, last: int, found: int) -> CloneSuspicion:
    """Return what a version manifest says whose counter is not above the last one's, although it is no repetition.

    Args:
        last: counter of the manifest in force.
        found: counter of another one, signed by the same key.
    """
    return CloneSuspicion(CloneSignal.MANIFEST, f"expected a manifest counter above {last}, found {found} newly signed")


def _serial(certificate_der: bytes) -> str:
    return f"{x509.load_der_x509_certificate(certificate_der).serial_number:x}"
