"""Roots for vouchers of tests: what one catalog's root key signs."""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from pki.authority import self_signed_root
from pki.metadata import director_root, image_root
from pki.profiles import root_ca
from protocol.signing import SoftwareSigner

_MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)
_ENDS_AT = _MADE_AT + timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class VoucherRoots:
    """A catalog's root key and what it signs.

    Attributes:
        key: the root key.
        tls: DER certificate of the X.509 root.
        director: root.json of the Director repository.
        image: root.json of the Image repository.
    """

    key: SoftwareSigner
    tls: bytes
    director: bytes
    image: bytes


def make_roots() -> VoucherRoots:
    """Another catalog's."""
    key, online = SoftwareSigner.generate(), SoftwareSigner.generate().public_key
    return VoucherRoots(
        key=key,
        tls=self_signed_root(root_ca("tests", now=_MADE_AT), key).certificate.public_bytes(Encoding.DER),
        director=director_root(key, director=online, expires=_ENDS_AT),
        image=image_root(key, targets=online, snapshot=online, timestamp=online, expires=_ENDS_AT),
    )


@functools.cache
def usual_roots() -> VoucherRoots:
    """The same for every voucher of a test run that looks at something else."""
    return make_roots()
