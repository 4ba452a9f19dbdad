"""The device API in one process with real attestation: verified evidence, signed time, issued certificates."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding
from typing_extensions import override

from device_sim.hardware.machine import Machine
from device_sim.network.ports import HttpResponse, LinkCounts, LinkEvents
from device_sim.network.tls import Credential
from pki import profiles
from pki.authority import CertificateAuthority, self_signed_root
from pki.csr import verify_ldevid_csr
from pki.signed_time import sign_time
from protocol.document import canonical_json, parse_document, sign_document
from protocol.evidence import bind_nonce, verify_evidence
from protocol.identity import Access, DeviceId
from protocol.messages import AttestationReply, AttestationRequest, NonceReply, NonceRequest, PollReply
from protocol.signing import SoftwareSigner
from protocol.voucher import VOUCHER_PAYLOAD_TYPE, Voucher
from tests.unit.device_update.update_builder import NOW, Catalog, Updated, Wire, ready_device


class Authorities:
    """A root and the issuer of LDevIDs below it."""

    def __init__(self, *, name: str = "tests") -> None:
        self.root = self_signed_root(profiles.root_ca(name, now=NOW), SoftwareSigner.generate())
        issuer = SoftwareSigner.generate()
        certificate = self.root.issue(profiles.issuing_ca(name, now=NOW), issuer.public_key)
        self.issuer = CertificateAuthority([certificate, self.root.certificate], issuer)


class AttestingWire(Wire):
    """Adds /attest to the wire; what a test changes is public."""

    def __init__(self, catalog: Catalog, authorities: Authorities, machine: Machine) -> None:
        super().__init__(catalog)
        self.authorities = authorities
        self.identity_key = machine.rot.public_key
        self.device_id = machine.device_id
        self.now = NOW
        self.time_signer = catalog.keys.director
        self.lifetime = timedelta(hours=24)
        self.access = Access.FULL
        self.refusal = ""
        self.poll_status = 200
        self.waiting = False
        self.issued = 0
        self._nonce = b""

    @override
    def _serve(self, path: str, headers: Mapping[str, str], body: bytes | None) -> HttpResponse:
        if path.startswith("/attest") and self.refusal:
            return HttpResponse(403, {}, json.dumps({"title": "Refused", "detail": self.refusal}).encode())
        if path == "/attest/nonce":
            return HttpResponse(200, {}, canonical_json(self.nonce_reply(parse_document(body or b"", NonceRequest))))
        if path == "/attest":
            return HttpResponse(200, {}, canonical_json(self.certify(parse_document(body or b"", AttestationRequest))))
        if path == "/poll":
            action = self.catalog.action_id if self.waiting else None
            reply = canonical_json(PollReply(action_id=action, next_poll_seconds=5))
            return HttpResponse(self.poll_status, {}, reply)
        return super()._serve(path, headers, body)

    def nonce_reply(self, request: NonceRequest) -> NonceReply:
        self._nonce = secrets.token_bytes(32)
        signed = sign_time(request.device_nonce, self.time_signer, now=self.now)
        return NonceReply(nonce=self._nonce, expires_at=self.now + timedelta(minutes=5), signed_time=signed)

    def certify(self, request: AttestationRequest) -> AttestationReply:
        """Verify the evidence as the service does, and issue an LDevID."""
        csr = verify_ldevid_csr(request.csr, self.device_id, identity_key=self.identity_key)
        evidence = verify_evidence(request.evidence, self.identity_key)
        assert evidence.nonce == bind_nonce(self._nonce, csr.public_key)
        profile = profiles.ldevid(self.device_id, now=self.now, lifetime=self.lifetime, access=self.access)
        leaf = self.authorities.issuer.issue(profile, csr.public_key)
        self.issued += 1
        chain = self.authorities.issuer.chain_pem(leaf).decode()
        return AttestationReply(certificate_chain=chain, not_after=self.now + self.lifetime, access=self.access)


@dataclass
class MemoryLink:
    """A link that acknowledges at once."""

    events: LinkEvents
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    connected: bool = False
    connections: int = 0

    @property
    def counts(self) -> LinkCounts:
        return LinkCounts(len(self.messages), len(self.messages), 0, 0)

    def start(self) -> None:
        self.connected = True
        self.connections += 1
        self.events.connected()

    def publish(self, topic: str, payload: bytes) -> None:
        self.messages.append((topic, payload))

    def drain(self, timeout_seconds: float) -> bool:
        return timeout_seconds > 0

    def reconnect(self) -> None:
        self.connections += 1

    def stop(self) -> None:
        self.connected = False


@dataclass
class MemorySession:
    """A session over the wire."""

    transport: AttestingWire
    link: MemoryLink
    credentials: list[Credential]

    def renew(self, credential: Credential) -> None:
        self.credentials.append(credential)

    def close(self) -> None:
        self.link.stop()


@dataclass
class MemoryNetwork:
    """A `Network` that leads to one wire."""

    wire: AttestingWire
    session_made: MemorySession | None = None

    def attestation(self, machine: Machine, voucher: Voucher) -> AttestingWire:
        del machine, voucher
        return self.wire

    def session(
        self, device_id: DeviceId, voucher: Voucher, credential: Credential, events: LinkEvents
    ) -> MemorySession:
        del device_id, voucher
        self.session_made = MemorySession(self.wire, MemoryLink(events), [credential])
        return self.session_made


def attestable_device(
    tmp_path: Path, authorities: Authorities, *, seed: bytes = b"device"
) -> tuple[Updated, AttestingWire]:
    """A claimed device whose voucher leads to the authorities, booted, and its wire."""
    device = ready_device(tmp_path, seed=seed)
    plain = device.catalog.voucher(device.builder.packages.keys.package)
    voucher = plain.model_copy(update={"tls_root": _der(authorities.root), "sequence": 2})
    envelope = sign_document(voucher, VOUCHER_PAYLOAD_TYPE, device.builder.packages.keys.voucher)
    (device.folder / "voucher.json").write_bytes(envelope)
    device.machine.boot()
    return device, AttestingWire(device.catalog, authorities, device.machine)


def _der(authority: CertificateAuthority) -> bytes:
    return authority.certificate.public_bytes(Encoding.DER)
