"""The simulated root of trust: identity key, fuses, monotonic counters, life cycle; kept in rot.json.

A simulation without physical protection: whoever reads rot.json has the device's identity. On the chip the key never
leaves the silicon; here no method gives it out. `sign` signs, and `authenticate` puts the key into a TLS context.

The AppDevelopment capability opens the application cores to a debugger while the root of trust stays closed, which is
RFC 9783's life cycle NON_PSA_ROT_DEBUG (§4.3.1): evidence shows it for as long as the device has the capability. The
chip takes it from a capability file that Microsoft signs for one device; the format is not public, so here the file
rot.json says it.

Invariants: a fuse, a counter and the life cycle only rise; rot.json is replaced as a whole, readable by its owner only.
"""

import hashlib
import secrets
import ssl
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import Field

from device_sim.errors import DeviceFolderError, SecurityFloorError
from device_sim.hardware.files import read_file, replace_file
from device_sim.hardware.power import PowerSupply
from protocol.document import Document, DocumentError, canonical_json, parse_document, sign_document
from protocol.evidence import CLIENT_ID, Evidence, LifeCycle, SoftwareComponent, sign_evidence
from protocol.geometry import Slot
from protocol.identity import DeviceId, device_id_of, device_uri
from protocol.signing import SoftwareSigner

IMPLEMENTATION_ID = hashlib.sha256(b"tinyfleet simulated MT3620").digest()
_SEED_BYTES = 32
_VOUCHER_COUNTER = "voucher-sequence"

Count = Annotated[int, Field(ge=0)]


class _Content(Document):
    identity_key: str  # PKCS#8 PEM
    lifecycle: LifeCycle
    fuses: Mapping[Slot, Count] = {}
    counters: Mapping[str, Count] = {}
    has_app_development: bool = False
    voucher_sha256: str = ""  # of the voucher that the counter of vouchers stands for


class RootOfTrust:
    """A device's root of trust; also the `Signer` of its identity key. Made by `manufacture` or `open`."""

    def __init__(self, path: Path, content: _Content, *, power: PowerSupply) -> None:
        self._path = path
        self._content = content
        self._power = power
        self._identity = _load_identity(content.identity_key)
        self._boot_seed = bytes(_SEED_BYTES)
        self.new_boot_seed()

    @classmethod
    def manufacture(cls, path: Path, identity: SoftwareSigner) -> "RootOfTrust":
        """Make the root of trust of a new device, secured, with no fuse blown.

        Args:
            path: rot.json.
            identity: the identity key; kept here and nowhere else.
        """
        pem = identity.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        content = _Content(identity_key=pem, lifecycle=LifeCycle.SECURED)
        replace_file(path, canonical_json(content))
        return cls(path, content, power=PowerSupply())

    @classmethod
    def open(cls, path: Path, *, power: PowerSupply) -> "RootOfTrust":
        """Take up a device's root of trust.

        Raises:
            DeviceFolderError: rot.json is missing or malformed.
        """
        try:
            content = parse_document(read_file(path), _Content)
        except DocumentError as error:
            raise DeviceFolderError(f"{path.name}: expected a root of trust, found {error}") from error
        return cls(path, content, power=power)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public identity key."""
        return self._identity.public_key

    @property
    def device_id(self) -> DeviceId:
        """The device id that the identity key makes."""
        return device_id_of(self.public_key)

    @property
    def lifecycle(self) -> LifeCycle:
        """The security life cycle, as evidence shows it."""
        secured = self._content.lifecycle is LifeCycle.SECURED
        return LifeCycle.NON_PSA_DEBUG if secured and self.has_app_development else self._content.lifecycle

    @property
    def has_app_development(self) -> bool:
        """Whether the device has the AppDevelopment capability."""
        return self._content.has_app_development

    @property
    def boot_seed(self) -> bytes:
        """Random since the last boot, 32 bytes."""
        return self._boot_seed

    def sign(self, data: bytes) -> bytes:
        """Return a DER ECDSA signature over SHA-256 of the data, by the identity key."""
        return self._identity.sign(data)

    def seal(self, document: Document, payload_type: str) -> bytes:
        """Return a document in an envelope that the identity key signed, JSON bytes."""
        return sign_document(document, payload_type, self)

    def new_boot_seed(self) -> None:
        """Draw the boot seed of a new boot."""
        self._boot_seed = secrets.token_bytes(_SEED_BYTES)

    def attest(self, nonce: bytes, components: Sequence[SoftwareComponent]) -> bytes:
        """Return a PSA token over what was measured.

        Args:
            nonce: see `protocol.evidence.bind_nonce`, 32 bytes.
            components: in boot order, at least one.
        """
        evidence = Evidence(
            nonce=nonce,
            implementation_id=IMPLEMENTATION_ID,
            boot_seed=self._boot_seed,
            lifecycle=self.lifecycle,
            client_id=CLIENT_ID,
            components=tuple(components),
        )
        return sign_evidence(evidence, self)

    def fuse(self, slot: Slot) -> int:
        """Return the lowest security version that the slot's image may have."""
        return self._content.fuses.get(slot, 0)

    def raise_fuse(self, slot: Slot, security_version: int) -> None:
        """Blow fuses up to a security version.

        Raises:
            SecurityFloorError: the fuse is above it already.
        """
        fuses = _raised(self._content.fuses, slot, security_version, what=f"fuse of {slot}")
        self._save(fuses=fuses)

    def counter(self, name: str) -> int:
        """Return a monotonic counter; 0 if it was never used."""
        return self._content.counters.get(name, 0)

    def raise_counter(self, name: str, value: int) -> None:
        """Raise a monotonic counter to a value.

        Raises:
            SecurityFloorError: the counter is above it already.
        """
        self._save(counters=_raised(self._content.counters, name, value, what=f"counter {name}"))

    def increment(self, name: str) -> int:
        """Raise a monotonic counter by one and return it."""
        self.raise_counter(name, self.counter(name) + 1)
        return self.counter(name)

    @property
    def voucher(self) -> tuple[int, str]:
        """Sequence and digest (SHA-256, lower-case hex) of the voucher in force; 0 and "" before the first."""
        return self.counter(_VOUCHER_COUNTER), self._content.voucher_sha256

    def take_voucher(self, sequence: int, digest: str) -> None:
        """Keep which voucher is in force; both in one write.

        Args:
            sequence: the voucher's.
            digest: its SHA-256, lower-case hex.

        Raises:
            SecurityFloorError: a voucher of a higher sequence was taken already.
        """
        counters = _raised(self._content.counters, _VOUCHER_COUNTER, sequence, what="voucher")
        self._save(counters=counters, voucher_sha256=digest)

    def advance_lifecycle(self, state: LifeCycle) -> None:
        """Move on in the life cycle, e.g. out of service, which attestation then shows.

        Raises:
            SecurityFloorError: the device is further already.
        """
        before = self._content.lifecycle
        if state < before:
            raise SecurityFloorError(f"life cycle: expected {before.name} or later, found {state.name}")
        self._save(lifecycle=state)

    def set_app_development(self, *, allowed: bool) -> None:
        """Give the device the AppDevelopment capability, or take it away."""
        self._save(has_app_development=allowed)

    def identity_csr(self) -> bytes:
        """Return the CSR for the IDevID, PEM: empty subject, device id as SAN URI."""
        return _csr(self._identity, self.device_id).public_bytes(Encoding.PEM)

    def new_operational_key(self) -> tuple[SoftwareSigner, bytes]:
        """Return a fresh LDevID key and its CSR, DER; the key is not kept here."""
        key = SoftwareSigner.generate()
        return key, _csr(key, self.device_id).public_bytes(Encoding.DER)

    def authenticate(self, context: ssl.SSLContext, chain: bytes) -> None:
        """Let a TLS context prove the device's identity; for the attestation endpoint alone.

        Args:
            context: of a client.
            chain: IDevID chain, PEM, leaf first.
        """
        load_client_identity(context, self._identity, chain)

    def _save(self, **changes: Any) -> None:  # noqa: ANN401 - fields of _Content, which checks them
        content = self._content.model_copy(update=changes)
        if content == self._content:
            return
        if self._power.draw() < 1.0:
            self._power.require()
        replace_file(self._path, canonical_json(content))
        self._content = content


def load_client_identity(context: ssl.SSLContext, key: SoftwareSigner, chain: bytes) -> None:
    """Load a certificate chain and its key into a TLS context, which takes them from files only.

    Args:
        context: of a client.
        key: of the leaf certificate.
        chain: PEM, leaf first.
    """
    pem = key.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tempfile.NamedTemporaryFile() as file:  # 0600, gone afterwards
        file.write(pem + chain)
        file.flush()
        context.load_cert_chain(file.name)


def seeded_identity(seed: bytes) -> SoftwareSigner:
    """Return an identity key that a seed determines, for simulations that repeat; whoever has the seed has the key."""
    digest = hashlib.sha512(b"tinyfleet simulated identity key\0" + seed).digest()
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256, SEC 2 §2.4.2
    scalar = int.from_bytes(digest, "big") % (order - 1) + 1
    return SoftwareSigner(ec.derive_private_key(scalar, ec.SECP256R1()))


def _raised(
    values: Mapping[Any, int],
    name: Any,  # noqa: ANN401 - a slot or a counter's name
    value: int,
    *,
    what: str,
) -> dict[Any, int]:
    floor = values.get(name, 0)
    if value < floor:
        raise SecurityFloorError(f"{what}: expected at least {floor}, found {value}")
    return {**values, name: value}


def _load_identity(pem: str) -> SoftwareSigner:
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except ValueError as error:
        raise DeviceFolderError("rot.json: expected a PKCS#8 identity key, found something else") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise DeviceFolderError("rot.json: expected a P-256 identity key, found another type")
    return SoftwareSigner(key)


def _csr(key: SoftwareSigner, device_id: DeviceId) -> x509.CertificateSigningRequest:
    name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(device_uri(device_id))])
    # RFC 5280 §4.1.2.6: with an empty subject the alternative name is critical.
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(name, critical=True)
    return builder.sign(key.private_key, hashes.SHA256())
