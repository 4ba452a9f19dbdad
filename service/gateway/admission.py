"""Who may connect: the checks on an LDevID certificate beyond what TLS verified.

TLS has proved that the peer holds the certificate's key, or resumed a session in which it did. Python's server
resumes a session although its client certificate has expired, and TLS knows neither our device ids nor blocks,
so every connection takes these steps:

1. The certificate is X.509, and its issuer is an LDevID issuer (an IDevID under the same root is not). Generations of
   the issuer have one name, so the authority key identifier tells them apart (RFC 5280 §4.2.1.1).
2. That issuer's key signed it.
3. It names one device: SAN URI `urn:tinyfleet:device:{id}` (IEEE 802.1AR §8, DESIGN.md "Words").
4. It says that it reaches everything; one for updates alone does not reach messages (RFC 5280 §4.2.1.4).
5. The time is within notBefore and notAfter (RFC 5280 §4.1.2.5).
6. The registry knows the device and does not block it.

What steps 1 to 4 found in a certificate is remembered, because a device connects with the same one for hours; time
and registry are asked at every connection.

Not checked here: extended key usage and the chain above the issuer, which TLS verified.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from pki.chains import find_issuer
from protocol.errors import ProtocolError
from protocol.identity import Access, DeviceId, access_in, device_id_in
from service.application.clock import Clock
from service.application.messaging import AdmittedDevice, DeviceStanding, NotAdmittedError, RefusalReason

_REMEMBERED_CERTIFICATES = 20_000  # about 1 KiB each


class LdevidAdmission:
    """Admits devices by LDevID; implements `DeviceAdmission`."""

    def __init__(self, issuers: Sequence[x509.Certificate], *, standing: DeviceStanding, clock: Clock) -> None:
        self._issuers = tuple(issuers)
        self._read_once = lru_cache(_REMEMBERED_CERTIFICATES)(self._read)
        self._standing = standing
        self._clock = clock

    def trust(self, issuers: Sequence[x509.Certificate]) -> None:
        """Go by other issuers from now on; what was remembered of certificates is read again."""
        self._issuers = tuple(issuers)
        self._read_once.cache_clear()

    def trusts(self, certificate_der: bytes) -> bool:
        """Whether a certificate that was admitted once is still by an LDevID issuer."""
        return find_issuer(x509.load_der_x509_certificate(certificate_der), self._issuers) is not None

    async def admit(self, certificate_der: bytes) -> AdmittedDevice:
        """See `DeviceAdmission.admit`; the steps are those of the module."""
        device_id, not_before, not_after = self._read_once(certificate_der)
        _check_validity(not_before, not_after, self._clock.now())  # step 5
        reason = await self._standing.refusal(device_id)  # step 6
        if reason is not None:
            raise NotAdmittedError(reason, f"device {device_id[:16]}…: expected in good standing, found {reason}")
        return AdmittedDevice(device_id=device_id, not_after=not_after)

    def _read(self, certificate_der: bytes) -> tuple[DeviceId, datetime, datetime]:
        certificate = self._check_issuer(certificate_der)  # steps 1 and 2
        device_id = _device_id(certificate)  # step 3
        _check_access(certificate)  # step 4
        return device_id, certificate.not_valid_before_utc, certificate.not_valid_after_utc

    def _check_issuer(self, certificate_der: bytes) -> x509.Certificate:
        try:
            certificate = x509.load_der_x509_certificate(certificate_der)
            issuer = find_issuer(certificate, self._issuers)
            if issuer is None:
                raise NotAdmittedError(
                    RefusalReason.FOREIGN_CERTIFICATE,
                    f"issuer: expected an LDevID issuer, found {certificate.issuer.rfc4514_string()}",
                )
            certificate.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise NotAdmittedError(
                RefusalReason.FOREIGN_CERTIFICATE, "certificate: expected one signed by an LDevID issuer"
            ) from error
        return certificate


def _device_id(certificate: x509.Certificate) -> DeviceId:
    try:
        return device_id_in(certificate)
    except ProtocolError as error:
        raise NotAdmittedError(RefusalReason.NO_DEVICE_ID, str(error)) from error


def _check_access(certificate: x509.Certificate) -> None:
    try:
        access = access_in(certificate)
    except ProtocolError as error:
        raise NotAdmittedError(RefusalReason.FOREIGN_CERTIFICATE, str(error)) from error
    if access is not Access.FULL:
        raise NotAdmittedError(RefusalReason.UPDATE_ONLY, f"certificate: expected full access, found {access}")


def _check_validity(not_before: datetime, not_after: datetime, now: datetime) -> None:
    if now < not_before:
        raise NotAdmittedError(
            RefusalReason.NOT_YET_VALID,
            f"certificate: expected valid at {now:%FT%TZ}, begins {not_before:%FT%TZ}",
        )
    if now >= not_after:
        raise NotAdmittedError(
            RefusalReason.EXPIRED, f"certificate: expected valid at {now:%FT%TZ}, ended {not_after:%FT%TZ}"
        )
