"""The certificates of a ceremony: where each is, who issues it, what it says; and where a real one differs from that.

One table serves the ceremony, which issues what it says, and the check, which expects what it says.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import PurePosixPath

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pki import profiles
from pki.authority import extensions_of
from pki.ceremony_declaration import Declaration
from pki.certificate_template import Extension
from pki.chains import issued_by
from pki.errors import CeremonyError
from pki.issuance import IssuanceKind
from pki.profiles import Profile, Revocation
from pki.roles import OfflineKey, OnlineKey
from pki.transcript import sha256_hex
from protocol.identity import spki_der

OFFLINE_CERTIFICATES = "operator/certificates"
ONLINE_CERTIFICATES = "service/certificates"
REQUESTS = "service/csr"
ISSUER_DIFFERS = "issuer: "  # how `differences` begins where another authority signed
_GENERATION = re.compile(r"-[0-9]{1,4}$")


@dataclass(frozen=True, slots=True)
class PlannedCertificate:
    """A certificate that the declaration asks for.

    Attributes:
        role: whose key it certifies; a later generation ends in its number.
        path: below the data directory.
        issuer: whose key issues it; None for the root, which issues itself.
        kind: what the issuance log calls it.
        with_issuer: whether its file holds the issuer's certificate as well, because TLS or OCSP hands both out.
    """

    role: str
    path: str
    profile: Profile
    issuer: OfflineKey | None
    kind: IssuanceKind
    with_issuer: bool = False


def planned_certificates(declaration: Declaration, *, began_at: datetime) -> tuple[PlannedCertificate, ...]:
    """Return the certificates of a ceremony, each after the one that issues it.

    Args:
        declaration: a verified one.
        began_at: when every validity begins, UTC, aware.
    """
    catalog, leaves = declaration.catalog, declaration.certificates
    server_days, ocsp_days, package_days = (
        timedelta(days=leaf.valid_days) for leaf in (leaves.server, leaves.ocsp, leaves.package)
    )
    server = profiles.server(declaration.server_names, now=began_at, lifetime=server_days)
    ocsp = profiles.ocsp_responder(catalog, now=began_at, lifetime=ocsp_days)
    package = profiles.package_signing(catalog, now=began_at, lifetime=package_days)
    root, factory, server_ca = OfflineKey.ROOT, OfflineKey.FACTORY, OfflineKey.SERVER_CA
    return (
        _authority(declaration, root, began_at=began_at),
        _authority(declaration, factory, began_at=began_at),
        _authority(declaration, server_ca, began_at=began_at),
        _offline(OfflineKey.PACKAGE, package, IssuanceKind.PACKAGE),
        _authority(declaration, OnlineKey.ISSUING_CA, began_at=began_at),
        _online(OnlineKey.SERVER, server, server_ca, IssuanceKind.SERVER),
        _online(OnlineKey.OCSP, ocsp, factory, IssuanceKind.OCSP),
    )


def planned_again(declaration: Declaration, role: str, *, began_at: datetime) -> PlannedCertificate:
    """Return a later generation of one of the service's certificates.

    Args:
        declaration: a verified one.
        role: its generation, such as `server-2`.
        began_at: when its validity begins, UTC, aware.

    Raises:
        CeremonyError: no ceremony makes a certificate of that name.
    """
    first = {planned.role: planned for planned in planned_certificates(declaration, began_at=began_at)}
    if base_role(role) not in first:
        raise CeremonyError(
            f"certificate: expected one of {', '.join(first)} or a later generation, found {role[:40]!r}"
        )
    return replace(first[base_role(role)], role=role, path=f"{ONLINE_CERTIFICATES}/{role}.pem")


def base_role(role: str) -> str:
    """Return the role of which a name is a later generation, or the role itself."""
    return _GENERATION.sub("", role)


def role_of(path: str) -> str:
    """Return the role of a certificate's or request's path."""
    return PurePosixPath(path).stem


def key_sha256(public_key: ec.EllipticCurvePublicKey) -> str:
    """Return the SHA-256 of a key's SubjectPublicKeyInfo, hex."""
    return sha256_hex(spki_der(public_key))


def differences(
    certificate: x509.Certificate,
    planned: PlannedCertificate,
    *,
    issuer: x509.Certificate,
    publish_url: str | None,
) -> Iterator[str]:
    """Say where a certificate is not what is planned: what was expected, and what was found.

    Args:
        certificate: what is there.
        planned: what should be there.
        issuer: the issuer's certificate; the root's own for the root.
        publish_url: as declared.
    """
    if not issued_by(certificate, issuer):
        yield f"{ISSUER_DIFFERS}expected a signature by {issuer.subject.rfc4514_string()}, found another"
    expected_found = (
        ("subject", planned.profile.subject.rfc4514_string(), certificate.subject.rfc4514_string()),
        ("begin", planned.profile.not_before, certificate.not_valid_before_utc),
        ("end", planned.profile.not_after, certificate.not_valid_after_utc),
    )
    yield from (f"{name}: expected {wanted}, found {is_}" for name, wanted, is_ in expected_found if wanted != is_)
    public_key = certificate.public_key()
    if not isinstance(public_key, ec.EllipticCurvePublicKey):
        yield "key: expected one on P-256, found another type"
        return
    above = None if planned.issuer is None else issuer
    planned_extensions = extensions_of(planned.profile, public_key, issuer=above, publish_url=publish_url)
    expected = {extension.oid: extension for extension in planned_extensions}
    found = {extension.oid: extension for extension in certificate.extensions}
    for oid in sorted(expected.keys() | found.keys(), key=lambda oid: oid.dotted_string):
        if expected.get(oid) != found.get(oid):
            yield f"{oid._name}: expected {_text(expected.get(oid))}, found {_text(found.get(oid))}"  # noqa: SLF001


def _text(extension: Extension | None) -> str:
    if extension is None:
        return "none"
    return f"{'critical ' if extension.critical else ''}{extension.value}"


def _authority(declaration: Declaration, role: str, *, began_at: datetime) -> PlannedCertificate:
    declared, is_root = declaration.authorities[role], role == OfflineKey.ROOT
    profile = profiles.authority(
        declaration.name_of(role),
        path_length=declared.path_length,
        now=began_at,
        lifetime=timedelta(days=declared.valid_days),
        constraints=declaration.constraints_of(role),
        revocation=Revocation.NONE if is_root else Revocation.CRL,
    )
    folder = ONLINE_CERTIFICATES if role in set(OnlineKey) else OFFLINE_CERTIFICATES
    issuer = None if is_root else OfflineKey.ROOT
    return PlannedCertificate(role, f"{folder}/{role}.pem", profile, issuer, IssuanceKind.AUTHORITY)


def _offline(role: OfflineKey, profile: Profile, kind: IssuanceKind) -> PlannedCertificate:
    return PlannedCertificate(role, f"{OFFLINE_CERTIFICATES}/{role}.pem", profile, OfflineKey.ROOT, kind)


def _online(role: OnlineKey, profile: Profile, issuer: OfflineKey, kind: IssuanceKind) -> PlannedCertificate:
    return PlannedCertificate(role, f"{ONLINE_CERTIFICATES}/{role}.pem", profile, issuer, kind, with_issuer=True)
