"""Identities, signatures, geometry and topics."""

import hashlib
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import SignatureError
from protocol.geometry import (
    FLASH_BYTES,
    HOME_BYTES,
    SPARE_BYTES,
    SYSTEM_SLOTS,
    TRAILER_BYTES,
    Core,
    ImageKind,
    Slot,
    slot_for,
)
from protocol.identity import (
    IdentityError,
    device_id_in,
    device_id_of,
    device_uri,
    parse_device_id,
    parse_guid,
    spki_der,
)
from protocol.signing import SoftwareSigner, der_from_raw, raw_from_der, verify
from protocol.topics import command_filter, command_topic, event_topic, telemetry_topic

SIGNER = SoftwareSigner.generate()
DEVICE_ID = device_id_of(SIGNER.public_key)


def _request(*extensions: x509.ExtensionType) -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(SIGNER.private_key, hashes.SHA256())


def test_device_id_is_the_hash_of_the_identity_key() -> None:
    """SHA-512 of the DER SubjectPublicKeyInfo, 128 lower-case hex digits."""
    assert hashlib.sha512(spki_der(SIGNER.public_key)).hexdigest() == DEVICE_ID
    assert parse_device_id(DEVICE_ID) == DEVICE_ID


@pytest.mark.parametrize("text", ["", DEVICE_ID.upper(), DEVICE_ID[:-1], DEVICE_ID + "0", DEVICE_ID + "\n", "x" * 128])
def test_other_text_is_no_device_id(text: str) -> None:
    """Exactly 128 lower-case hex digits."""
    with pytest.raises(IdentityError, match="device id: expected 128 lower-case hex digits"):
        parse_device_id(text)


def test_guid_has_one_form() -> None:
    """Upper case and braces become the canonical form; other text is refused."""
    assert parse_guid("{253EE667-88AE-4F55-ACF6-2CDAA9CA15BC}") == "253ee667-88ae-4f55-acf6-2cdaa9ca15bc"
    with pytest.raises(IdentityError, match="GUID: expected 8-4-4-4-12 hex digits, found 'person'"):
        parse_guid("person")


def test_certificate_names_a_device_by_its_uri() -> None:
    """One SAN URI and nothing else."""
    name = x509.UniformResourceIdentifier(device_uri(DEVICE_ID))
    assert device_id_in(_request(x509.SubjectAlternativeName([name]))) == DEVICE_ID


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ([], "expected one URI, found no such extension"),
        ([x509.SubjectAlternativeName([x509.DNSName("a.example")])], "expected exactly one URI, found 1 names"),
        (
            [x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])],
            "expected exactly one URI",
        ),
        ([x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:x:y")])], "expected urn:tinyfleet:device:"),
        (
            [x509.SubjectAlternativeName([x509.UniformResourceIdentifier("urn:tinyfleet:device:abc")])],
            "device id: expected 128",
        ),
        ([x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"\x30\x01")], "found no such extension"),
    ],
)
def test_certificate_that_names_no_device_is_refused(extensions: list[x509.ExtensionType], message: str) -> None:
    """No name, another kind of name, another scheme, another length, or bytes that do not parse."""
    with pytest.raises(IdentityError, match=message):
        device_id_in(_request(*extensions))


def test_signature_of_another_key_or_over_other_data_is_refused() -> None:
    """ECDSA P-256 with SHA-256."""
    signature = SIGNER.sign(b"data")
    verify(SIGNER.public_key, signature, b"data")
    for key, data in ((SIGNER, b"other"), (SoftwareSigner.generate(), b"data")):
        with pytest.raises(SignatureError, match="signature: expected one by the given key"):
            verify(key.public_key, signature, data)


@given(st.binary(max_size=80))
def test_any_bytes_are_no_signature(signature: bytes) -> None:
    """Malformed DER is our error."""
    with pytest.raises(SignatureError):
        verify(SIGNER.public_key, signature, b"data")


def test_raw_and_der_signatures_say_the_same() -> None:
    """r‖s and back."""
    signature = SIGNER.sign(b"data")
    assert der_from_raw(raw_from_der(signature)) == signature


@pytest.mark.parametrize("size", [0, 63, 65])
def test_raw_signature_of_another_length_is_refused(size: int) -> None:
    """64 bytes, no more and no less."""
    with pytest.raises(SignatureError, match=f"raw signature: expected 64 bytes, found {size}"):
        der_from_raw(bytes(size))


def test_slots_know_core_and_kind() -> None:
    """The system images belong to the A7."""
    assert (Slot.M4_0_MODEL.core, Slot.M4_0_MODEL.kind) == (Core.M4_0, ImageKind.MODEL)
    assert [(slot.core, slot.kind.value) for slot in SYSTEM_SLOTS] == [
        (Core.A7, "boot-loader"), (Core.A7, "security-monitor"), (Core.A7, "os"),
    ]  # fmt: skip
    assert Core.M4_1.hardware_id == "mt3620-m4-1"


def test_slot_for_finds_home_slots_alone() -> None:
    """System images have no home slot, and no core runs what has none."""
    assert slot_for(Core.M4_1, ImageKind.FIRMWARE) == Slot.M4_1_FIRMWARE
    assert slot_for(Core.A7, ImageKind.MODEL) is None
    assert slot_for(Core.A7, ImageKind.OS) is None


def test_slots_fill_the_flash_exactly() -> None:
    """Home slots, one shared spare and the trailers."""
    assert sum(HOME_BYTES.values()) + SPARE_BYTES + TRAILER_BYTES == FLASH_BYTES


def test_topics_carry_the_device_id() -> None:
    """tinyfleet/v1/{device id}/{class}/{rest}."""
    assert telemetry_topic(DEVICE_ID, "inference") == f"tinyfleet/v1/{DEVICE_ID}/telemetry/inference"
    assert event_topic(DEVICE_ID, "security") == f"tinyfleet/v1/{DEVICE_ID}/events/security"
    assert command_topic(DEVICE_ID, "check-update") == f"tinyfleet/v1/{DEVICE_ID}/commands/check-update"
    assert command_filter(DEVICE_ID) == f"tinyfleet/v1/{DEVICE_ID}/commands/#"
