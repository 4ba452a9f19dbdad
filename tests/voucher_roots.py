"""Roots for vouchers of tests: what one catalog's root key signs."""

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from pki.authority import self_signed_root
from pki.metadata import director_root, image_root, sign_targets
from pki.profiles import issuing_ca, root_ca
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
        issued: DER certificate of an authority below the root.
        targets: targets.json of the Image repository.
    """

    key: SoftwareSigner
    tls: bytes
    director: bytes
    image: bytes
    issued: bytes
    targets: bytes


def make_roots() -> VoucherRoots:
    """Another catalog's."""
    key, online = SoftwareSigner.generate(), SoftwareSigner.generate()
    root, public_key = self_signed_root(root_ca("tests", now=_MADE_AT), key), online.public_key
    return VoucherRoots(
        key=key,
        tls=root.certificate.public_bytes(Encoding.DER),
        director=director_root(key, director=public_key, expires=_ENDS_AT),
        image=image_root(key, targets=public_key, snapshot=public_key, timestamp=public_key, expires=_ENDS_AT),
        issued=root.issue(issuing_ca("tests", now=_MADE_AT), public_key).public_bytes(Encoding.DER),
        targets=sign_targets([], online, version=1, expires=_ENDS_AT),
    )


@functools.cache
def usual_roots() -> VoucherRoots:
    """The same for every voucher of a test run that looks at something else."""
    return make_roots()
