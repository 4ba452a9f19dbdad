"""Certificate profiles as code: what each kind of certificate holds (RFC 5280, IEEE 802.1AR).

A profile is a value; `CertificateAuthority` adds the public key, the issuer, the serial number and the signature.
Times are arguments, UTC and aware. `not_before` lies a little in the past, for clocks that lag.

Name constraints (RFC 5280 §4.2.1.10) keep the authorities apart: those that issue device certificates exclude every DNS
name and IP address, so that neither can name a server; the server CA permits its own hosts alone, and no URN, because a
constraint on URIs refuses each URI without a host. For the same reason device authorities can have no constraint on
URIs at all: one that permits `urn:tinyfleet:device:` only cannot be said, and the verifier's own check takes its place.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.errors import ProfileError
from protocol.identity import OPERATOR_URI_PREFIX, TINYFLEET_ARC, Access, DeviceId, device_uri

CLOCK_SKEW = timedelta(minutes=5)
ROOT_LIFETIME = timedelta(days=30 * 365)
FACTORY_CA_LIFETIME = timedelta(days=30 * 365)
ISSUING_CA_LIFETIME = timedelta(days=5 * 365)
SERVER_CA_LIFETIME = timedelta(days=30 * 365)
SERVER_LIFETIME = timedelta(days=2 * 365)
OCSP_LIFETIME = timedelta(days=2 * 365)
PACKAGE_LIFETIME = timedelta(days=30 * 365)
LDEVID_LIFETIME = timedelta(hours=24)
OPERATOR_LIFETIME = timedelta(days=90)
POSSESSION_LIFETIME = timedelta(hours=1)
POSSESSION_PURPOSE = x509.ObjectIdentifier(f"{TINYFLEET_ARC}.3")
NO_EXPIRY = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280 §4.1.2.5, IEEE 802.1AR-2018 §8.7
LOOPBACK_HOSTNAMES = ("localhost", "127.0.0.1", "::1")
_SERIAL_NUMBER_DIGITS = 64  # X.520 ub-serial-number
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*\Z")


EVERY_HOST = (
    x509.DNSName(""),
    x509.IPAddress(ipaddress.IPv4Network("0.0.0.0/0")),
    x509.IPAddress(ipaddress.IPv6Network("::/0")),
)
_NO_SUBJECT = x509.Name([])
NO_HOST = x509.NameConstraints(permitted_subtrees=None, excluded_subtrees=EVERY_HOST)
_NO_URN = x509.UniformResourceIdentifier("tinyfleet.invalid")  # RFC 6761 §6.4: no URI is there


class Revocation(Enum):
    """Where a certificate says that its revocation is published, if the authority publishes at all."""

    NONE = "none"  # its end is its revocation, or nothing can revoke it
    CRL = "crl"
    CRL_AND_OCSP = "crl and ocsp"
    NO_CHECK = "no check"  # of a responder, which cannot answer for itself: RFC 6960 §4.2.2.2.1


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
        constraints: on the names below an authority; None permits all.
        policies: certificate policies; those of an LDevID say how far it reaches.
        revocation: where its revocation is published.
    """

    subject: x509.Name
    names: tuple[x509.GeneralName, ...]
    path_length: int | None
    purposes: tuple[x509.ObjectIdentifier, ...]
    not_before: datetime
    not_after: datetime
    constraints: x509.NameConstraints | None = None
    policies: tuple[x509.ObjectIdentifier, ...] = ()
    revocation: Revocation = Revocation.NONE

    @property
    def is_authority(self) -> bool:
        """Whether the certificate may issue others."""
        return self.path_length is not None


def authority(
    name: str,
    *,
    path_length: int,
    now: datetime,
    lifetime: timedelta,
    constraints: x509.NameConstraints | None = None,
    revocation: Revocation = Revocation.CRL,
) -> Profile:
    """An authority by its common name; see `Profile` for the rest."""
    return Profile(
        subject=_common_name(name),
        names=(),
        path_length=path_length,
        purposes=(),
        not_before=_whole_seconds(now - CLOCK_SKEW),
        not_after=_whole_seconds(now + lifetime),
        constraints=constraints,
        revocation=revocation,
    )


def root_ca(catalog_name: str, *, now: datetime) -> Profile:
    """The offline root; exactly one level of authorities below it."""
    name = f"{catalog_name} root"
    return authority(name, path_length=1, now=now, lifetime=ROOT_LIFETIME, revocation=Revocation.NONE)


def issuing_ca(catalog_name: str, *, now: datetime) -> Profile:
    """The online authority that issues LDevIDs, and nothing below them."""
    name = f"{catalog_name} LDevID issuer"
    return authority(name, path_length=0, now=now, lifetime=ISSUING_CA_LIFETIME, constraints=NO_HOST)


def factory_ca(catalog_name: str, *, now: datetime) -> Profile:
    """The offline authority that issues IDevIDs and certifies their OCSP responder, and nothing below them."""
    name = f"{catalog_name} IDevID issuer"
    return authority(name, path_length=0, now=now, lifetime=FACTORY_CA_LIFETIME, constraints=NO_HOST)


def server_ca(catalog_name: str, hostnames: Sequence[str], *, now: datetime) -> Profile:
    """The offline authority that issues the service's TLS certificates, for these hosts alone.

    Raises:
        ProfileError: a name is neither a DNS name nor an IP address.
    """
    name, constraints = f"{catalog_name} server issuer", only_hosts(hostnames)
    return authority(name, path_length=0, now=now, lifetime=SERVER_CA_LIFETIME, constraints=constraints)


def only_hosts(hostnames: Sequence[str]) -> x509.NameConstraints:
    """Permit these DNS names with what is below them, these IP addresses or networks, and no URN.

    Raises:
        ProfileError: a name is neither.
    """
    return x509.NameConstraints([*map(subtree, hostnames), _NO_URN], excluded_subtrees=None)


def subtree(name: str) -> x509.GeneralName:
    """Return a DNS name, an IP address or an IP network as a name constraint.

    Raises:
        ProfileError: the name is neither.
    """
    try:
        return x509.IPAddress(ipaddress.ip_network(_unscoped(name)))
    except ValueError:
        return _dns_name(name)


def server(hostnames: Sequence[str], *, now: datetime, lifetime: timedelta = SERVER_LIFETIME) -> Profile:
    """The service's TLS certificate for DNS names and IP addresses.

    Raises:
        ProfileError: a name is neither.
    """
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tinyfleet service")])
    names, not_after = tuple(_host(name) for name in hostnames), now + lifetime
    purpose, revocation = ExtendedKeyUsageOID.SERVER_AUTH, Revocation.CRL
    return _end_entity(subject, names, purpose, now=now, not_after=not_after, revocation=revocation)


def ocsp_responder(catalog_name: str, *, now: datetime, lifetime: timedelta = OCSP_LIFETIME) -> Profile:
    """The service's certificate for signing OCSP answers about IDevIDs (RFC 6960 §4.2.2.2)."""
    subject, not_after = _common_name(f"{catalog_name} OCSP"), now + lifetime
    purpose, revocation = ExtendedKeyUsageOID.OCSP_SIGNING, Revocation.NO_CHECK
    return _end_entity(subject, (), purpose, now=now, not_after=not_after, revocation=revocation)


def package_signing(catalog_name: str, *, now: datetime, lifetime: timedelta = PACKAGE_LIFETIME) -> Profile:
    """The operator's certificate for signing image packages."""
    subject, not_after = _common_name(f"{catalog_name} package signing"), now + lifetime
    purpose, revocation = ExtendedKeyUsageOID.CODE_SIGNING, Revocation.CRL
    return _end_entity(subject, (), purpose, now=now, not_after=not_after, revocation=revocation)


def idevid(device_id: DeviceId, *, now: datetime) -> Profile:
    """A device's birth certificate: names it for ever (IEEE 802.1AR-2018 §8)."""
    serial_number = x509.NameAttribute(NameOID.SERIAL_NUMBER, device_id[:_SERIAL_NUMBER_DIGITS])
    return _end_entity(
        x509.Name([serial_number]),
        (x509.UniformResourceIdentifier(device_uri(device_id)),),
        ExtendedKeyUsageOID.CLIENT_AUTH,
        now=now,
        not_after=NO_EXPIRY,
        revocation=Revocation.CRL_AND_OCSP,
    )


def ldevid(
    device_id: DeviceId, *, now: datetime, lifetime: timedelta = LDEVID_LIFETIME, access: Access = Access.FULL
) -> Profile:
    """A device's operational certificate; its expiry is its revocation, its policy says how far it reaches."""
    names = (x509.UniformResourceIdentifier(device_uri(device_id)),)
    purpose, policies = ExtendedKeyUsageOID.CLIENT_AUTH, (access.policy,)
    return _end_entity(_NO_SUBJECT, names, purpose, now=now, not_after=now + lifetime, policies=policies)


def operator_client(name: str, *, now: datetime, lifetime: timedelta = OPERATOR_LIFETIME) -> Profile:
    """An operator's client certificate; who removes the operator revokes it."""
    names = (x509.UniformResourceIdentifier(OPERATOR_URI_PREFIX + name),)
    return _end_entity(_NO_SUBJECT, names, ExtendedKeyUsageOID.CLIENT_AUTH, now=now, not_after=now + lifetime)


def possession_proof(nonce: str, *, now: datetime) -> Profile:
    """A certificate of a caller's nonce, good for showing that the issuer holds its key, and for nothing else."""
    return _end_entity(_common_name(nonce), (), POSSESSION_PURPOSE, now=now, not_after=now + POSSESSION_LIFETIME)


def _end_entity(
    subject: x509.Name,
    names: tuple[x509.GeneralName, ...],
    purpose: x509.ObjectIdentifier,
    *,
    now: datetime,
    not_after: datetime,
    policies: tuple[x509.ObjectIdentifier, ...] = (),
    revocation: Revocation = Revocation.NONE,
) -> Profile:
    return Profile(
        subject=subject,
        names=names,
        path_length=None,
        purposes=(purpose,),
        not_before=_whole_seconds(now - CLOCK_SKEW),
        not_after=_whole_seconds(not_after),
        policies=policies,
        revocation=revocation,
    )


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(_unscoped(name)))
    except ValueError:
        return _dns_name(name)


def _unscoped(name: str) -> str:
    if "%" in name:  # RFC 4007 §11.2: a scope means something on one machine only; a certificate has no place for it
        raise ProfileError(f"host name: expected a DNS name or an IP address without a scope, found {name[:80]!r}")
    return name


def _dns_name(name: str) -> x509.DNSName:
    if not _HOST_NAME.match(name):
        raise ProfileError(f"host name: expected a DNS name or an IP address, found {name[:80]!r}")
    return x509.DNSName(name)
