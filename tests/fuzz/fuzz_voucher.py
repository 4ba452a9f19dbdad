"""Signed documents: DSSE envelopes as bytes, and envelopes of the right key around any payload."""

import json

from securesystemslib.dsse import Envelope

from device_sim.errors import DeviceSimError
from device_sim.network.attestation import verify_time
from pki.signed_time import sign_time
from protocol.document import canonical_json, sign_document, verify_document
from protocol.errors import ProtocolError
from protocol.identity import device_id_of
from protocol.messages import MANIFEST_PAYLOAD_TYPE, VersionManifest
from protocol.signing import TufSigner
from protocol.voucher import VOUCHER_PAYLOAD_TYPE, Voucher, check_roots, encode_public_keys, verify_voucher
from tests.fuzz.target import KEY, SIGNER, Target
from tests.unit.pki.pki_builder import NOW
from tests.voucher_roots import usual_roots

_ROOTS = usual_roots()
_DEVICE, _NONCE = device_id_of(KEY), bytes(32)
_VOUCHER = Voucher(
    device_id=_DEVICE,
    catalog_id="8a7d1bbd-3c3f-4b0a-9d0e-6d3c5f6a7b8c",
    catalog_name="fuzz",
    sequence=1,
    issued_at=NOW,
    tls_root=_ROOTS.tls,
    director_root=_ROOTS.director,
    image_root=_ROOTS.image,
    package_keys=encode_public_keys([KEY]),
    golden_keys=(),
)
_MANIFEST = VersionManifest(device_id=_DEVICE, counter=1, reported_at=NOW, images={})
_TIME = sign_time(_NONCE, SIGNER, now=NOW)


def _voucher(unverified: bytes) -> None:
    check_roots(verify_voucher(unverified, _DEVICE, voucher_key=KEY, now=NOW))


def _signed_voucher(unverified: bytes) -> None:
    _voucher(_enveloped(unverified, VOUCHER_PAYLOAD_TYPE))


def _root_in_voucher(unverified: bytes) -> None:
    """A voucher in order but for one root, which only a stolen voucher key would sign."""
    check_roots(_VOUCHER.model_copy(update={"director_root": unverified}))


def _certificate_in_voucher(unverified: bytes) -> None:
    check_roots(_VOUCHER.model_copy(update={"tls_root": unverified}))


def _key_in_voucher(unverified: bytes) -> None:
    voucher = _VOUCHER.model_copy(update={"package_keys": (unverified,)})
    check_roots(voucher)


def _manifest(unverified: bytes) -> None:
    verify_document(unverified, MANIFEST_PAYLOAD_TYPE, VersionManifest, trusted_keys=[KEY])


def _time(unverified: bytes) -> None:
    verify_time(unverified, _NONCE, trusted_keys=[KEY])


def _enveloped(payload: bytes, payload_type: str) -> bytes:
    envelope = Envelope(payload, payload_type, {})
    envelope.sign(TufSigner(SIGNER))
    return json.dumps(envelope.to_dict()).encode()


_ERRORS = (ProtocolError,)
TARGETS = (
    Target("voucher", _voucher, _ERRORS, (sign_document(_VOUCHER, VOUCHER_PAYLOAD_TYPE, SIGNER),)),
    Target("voucher-payload", _signed_voucher, _ERRORS, (canonical_json(_VOUCHER),)),
    Target("voucher-root", _root_in_voucher, _ERRORS, (_ROOTS.director,)),
    Target("voucher-certificate", _certificate_in_voucher, _ERRORS, (_VOUCHER.tls_root,)),
    Target("voucher-key", _key_in_voucher, _ERRORS, (_VOUCHER.package_keys[0],)),
    Target("manifest", _manifest, _ERRORS, (sign_document(_MANIFEST, MANIFEST_PAYLOAD_TYPE, SIGNER),)),
    Target("signed-time", _time, (DeviceSimError,), (_TIME,)),
)
