"""Certificate profiles as code: what each kind of certificate holds (RFC 5280, IEEE 802.1AR).

A profile is a value; `CertificateAuthority` adds the public key, the issuer, the serial number and the signature.
Times are arguments, UTC and aware. `not_before` lies a little in the past, for clocks that lag.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.errors import ProfileError
from protocol.identity import OPERATOR_URI_PREFIX, DeviceId, device_uri

CLOCK_SKEW = timedelta(minutes=5)
ROOT_LIFETIME = timedelta(days=30 * 365)
FACTORY_CA_LIFETIME = timedelta(days=30 * 365)
ISSUING_CA_LIFETIME = timedelta(days=5 * 365)
SERVER_LIFETIME = timedelta(days=2 * 365)
LDEVID_LIFETIME = timedelta(hours=24)
OPERATOR_LIFETIME = timedelta(days=90)
NO_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 §4.1.2.5, IEEE 802.1AR-2018 §8.7
_SERIAL_NUMBER_DIGITS = 64  # X.520 ub-serial-number
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*\Z")


@dataclass(frozen=True, slots=True)
class Profile:
    """What a certificate says, apart from keys, issuer and serial number.

    Attributes:
        subject: may be empty; then the subject alternative name is critical (RFC 5280 §4.2.1.6).
        names: subject alternative names; empty for authorities.
        path_length: how many authorities may follow below an authority; None for an end entity.
        purposes: extended key usages; empty for authorities.
        not_before: UTC, aware, whole seconds.
        not_after: UTC, aware, whole seconds.
    """

    subject: x509.Name
    names: tuple[x509.GeneralName, ...]
    path_length: int | None
    purposes: tuple[x509.ObjectIdentifier, ...]
    not_before: datetime
    not_after: datetime

    @property
    def is_authority(self) -> bool:
        """Whether the certificate may issue others."""
        return self.path_length is not None


def root_ca(catalog_name: str, *, now: datetime) -> Profile:
    """The offline root; exactly one level of authorities below it."""
    return _authority(f"{catalog_name} root", path_length=1, now=now, lifetime=ROOT_LIFETIME)


def issuing_ca(catalog_name: str, *, now: datetime) -> Profile:
    """The online authority that issues LDevIDs, and nothing below them."""
    return _authority(f"{catalog_name} LDevID issuer", path_length=0, now=now, lifetime=ISSUING_CA_LIFETIME)


def factory_ca(catalog_name: str, *, now: datetime) -> Profile:
    """The offline authority that issues IDevIDs, and nothing below them."""
    return _authority(f"{catalog_name} IDevID issuer", path_length=0, now=now, lifetime=FACTORY_CA_LIFETIME)


def server(hostnames: Sequence[str], *, now: datetime) -> Profile:
    """The service's TLS certificate for DNS names and IP addresses.

    Raises:
        ProfileError: a name is neither.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tinyfleet service")])
    names = tuple(_host(name) for name in hostnames)
    return _end_entity(subject, names, ExtendedKeyUsageOID.SERVER_AUTH, now=now, not_after=now + SERVER_LIFETIME)


def idevid(device_id: DeviceId, *, now: datetime) -> Profile:
    """A device's birth certificate: names it for ever (IEEE 802.1AR-2018 §8)."""
    serial_number = x509.NameAttribute(NameOID.SERIAL_NUMBER, device_id[:_SERIAL_NUMBER_DIGITS])
    return _end_entity(
        x509.Name([serial_number]),
        (x509.UniformResourceIdentifier(device_uri(device_id)),),
        ExtendedKeyUsageOID.CLIENT_AUTH,
        now=now,
        not_after=NO_EXPIRY,
    )


def ldevid(device_id: DeviceId, *, now: datetime, lifetime: timedelta = LDEVID_LIFETIME) -> Profile:
    """A device's operational certificate; its expiry is its revocation."""
    names = (x509.UniformResourceIdentifier(device_uri(device_id)),)
    return _end_entity(x509.Name([]), names, ExtendedKeyUsageOID.CLIENT_AUTH, now=now, not_after=now + lifetime)


def operator_client(name: str, *, now: datetime, lifetime: timedelta = OPERATOR_LIFETIME) -> Profile:
    """An operator's client certificate."""
    names = (x509.UniformResourceIdentifier(OPERATOR_URI_PREFIX + name),)
    return _end_entity(x509.Name([]), names, ExtendedKeyUsageOID.CLIENT_AUTH, now=now, not_after=now + lifetime)


def _authority(name: str, *, path_length: int, now: datetime, lifetime: timedelta) -> Profile:
    return Profile(
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        names=(),
        path_length=path_length,
        purposes=(),
        not_before=_whole_seconds(now - CLOCK_SKEW),
        not_after=_whole_seconds(now + lifetime),
    )


def _end_entity(
    subject: x509.Name,
    names: tuple[x509.GeneralName, ...],
    purpose: x509.ObjectIdentifier,
    *,
    now: datetime,
    not_after: datetime,
) -> Profile:
    return Profile(subject, names, None, (purpose,), _whole_seconds(now - CLOCK_SKEW), _whole_seconds(not_after))


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError as error:
        if not _HOST_NAME.match(name):
            raise ProfileError(f"host name: expected a DNS name or an IP address, found {name[:80]!r}") from error
        return x509.DNSName(name)
