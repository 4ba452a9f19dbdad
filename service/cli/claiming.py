"""Claiming: challenge, proof of identity, claim, voucher; for every device of a folder.

A device that is claimed already gets its voucher if it has none: an interrupted claim is finished by the same command.
What a voucher hands over comes from the operator's side alone, never from the service. A device that was made here
gets its voucher here, with the release of the catalog that holds it if one does; a device of another manufacturer
must come with a voucher to this catalog.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pki.chains import DeviceCertificate
from pki.errors import ChainError
from pki.files import PUBLIC_MODE, replace_file
from pki.handover import Handover
from pki.manufacturers import Manufacturer
from pki.vouchers import VoucherAuthority, VoucherRequest
from protocol.attributes import Attributes
from protocol.document import parse_document, peek_document
from protocol.evidence import bind_nonce, verify_evidence
from protocol.identity import parse_device_id
from protocol.messages import ClaimChallenge, ClaimProof
from protocol.voucher import MAX_VOUCHER_BYTES, VOUCHER_PAYLOAD_TYPE, Voucher, public_keys, verify_voucher
from service.cli import clock
from service.cli.catalog_papers import own_handover, trusted_list
from service.cli.client import ApiClient, JsonObject
from service.cli.errors import CliError, DeviceFolderError, RefusedError, StepError
from service.cli.factory_papers import MAX_PAPER_BYTES, VOUCHER_FILE, made_here, read_voucher, voucher_authority
from service.cli.offered import read_input
from service.cli.output import short

CLAIM_FILE = "claim.json"
DEVICE_FILE = "device.json"


class ClaimProofError(CliError):
    """A device's proof of identity is another device's, or answers another challenge."""


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What became of each device; device ids."""

    claimed: list[str] = field(default_factory=list)
    already_claimed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class VoucherDesk:
    """Gives claimed devices their vouchers; made by `open`.

    Attributes:
        operator_dir: of the manufacturer, who here is the catalog's operator.
        handover: of this catalog.
        authority: gives vouchers to devices that were made here.
        release: by the catalog that holds the devices, unverified, or None.
    """

    operator_dir: Path
    handover: Handover
    authority: VoucherAuthority
    release: bytes | None

    @classmethod
    def open(cls, operator_dir: Path, release: Path | None) -> "VoucherDesk":
        """Open the desk of an operator's folder.

        Args:
            operator_dir: holds the voucher key and the log of vouchers.
            release: file of the release by the catalog that holds the devices, or None.

        Raises:
            PkiError: the voucher key cannot be used, or the ceremony's files are malformed.
            PackageFileError: the release cannot be read.
        """
        content = None if release is None else read_input(release, max_bytes=MAX_PAPER_BYTES)
        handover = own_handover(operator_dir, now=clock.now())
        return cls(operator_dir, handover, voucher_authority(operator_dir), content)

    def has_given(self, folder: Path) -> bool:
        """Say whether a device shows a voucher that leads here and that no newer one has superseded.

        Raises:
            DocumentError: what it shows is no voucher.
            VoucherLogError: the log is not whole.
        """
        shown = _shown_voucher(folder)
        return shown is not None and _leads_to(self.handover, shown) and not self.authority.has_superseded(shown)

    def voucher(self, folder: Path, proof: ClaimProof, *, challenge: bytes | None = None) -> bytes:
        """Return the voucher of a device that has proved itself: the one that it has, or a new one.

        Args:
            folder: of the device.
            proof: its proof of identity.
            challenge: what the proof must be fresh by; None if the device was asked elsewhere, and the service alone
                knows the challenge.

        Raises:
            DeviceFolderError: another manufacturer made it, and its voucher does not lead here.
            ClaimProofError: the proof is another device's, or not fresh.
            PkiError: there is no voucher without a release, or the voucher key cannot be used.
            ProtocolError: the voucher that it has is not by its manufacturer, or the proof is not signed by its key.
        """
        device = self._made_here(proof)
        if device is None:
            return self._makers_voucher(folder, proof)
        _check_proof(proof, device, challenge=challenge)
        request = VoucherRequest(
            device_id=device.device_id,
            handover=self.handover,
            unverified_release=self.release,
            unverified_voucher=read_voucher(folder),
            is_proved=True,
        )
        return self.authority.issue(request, now=clock.now())

    def _makers_voucher(self, folder: Path, proof: ClaimProof) -> bytes:
        shown, maker = read_voucher(folder), self._maker(proof)
        if shown is None or maker is None or not self.has_given(folder):
            raise DeviceFolderError(
                f"{folder.name}: expected a voucher by its manufacturer to catalog {self.handover.catalog_name}, "
                "found none; give him the handover of `tinyfleet catalog export`"
            )
        verify_voucher(shown, parse_device_id(proof.device_id), voucher_key=public_keys([maker.voucher_key])[0])
        return shown

    def _maker(self, proof: ClaimProof) -> Manufacturer | None:
        trusted = trusted_list(self.operator_dir)
        makers = () if trusted is None else trusted.manufacturers
        return next((maker for maker in makers if maker.made(proof.idevid_chain.encode(), now=clock.now())), None)

    def _made_here(self, proof: ClaimProof) -> DeviceCertificate | None:
        try:
            return made_here(proof.idevid_chain.encode(), self.operator_dir)
        except ChainError:
            return None


def claim_devices(
    client: ApiClient, devices: Path, *, desk: VoucherDesk, product: str, group: str, prove: bool
) -> ClaimResult:
    """Claim every device of a folder and hand each its voucher.

    Args:
        client: of the service that takes the claim.
        devices: folder of device folders.
        desk: gives them their vouchers.
        product: name of the product.
        group: name of its device group.
        prove: start `device-sim prove` for the proofs; else they lie in the devices' folders.

    Raises:
        CliError: a device gives no proof, or the service refuses one; devices before it are claimed.
        PkiError: there is no voucher for a device.
    """
    folders = {_device_id(path): path for path in sorted(devices.iterdir()) if (path / DEVICE_FILE).exists()}
    if not folders:
        raise DeviceFolderError(f"{devices}: expected folders of devices, found none")
    # A device that has both claim and voucher may be running, and has nothing to prove.
    known_ids = {str(device["id"]) for device in client.items("/devices") if device["state"] != "moved"}
    done = {known_id for known_id in known_ids & folders.keys() if desk.has_given(folders[known_id])}
    waiting = [path for device_id, path in folders.items() if device_id not in done]
    result = ClaimResult(already_claimed=sorted(done))
    challenge = None
    if prove and waiting:
        challenge = ClaimChallenge.model_validate(client.post("/claims/challenge")).challenge
        _prove(waiting if done else [devices], challenge)
    for folder in waiting:
        proof = _proof(folder)
        known = _claim(client, proof, product=product, group=group, attributes=_attributes(folder))
        (result.already_claimed if known else result.claimed).append(proof.device_id)
        if not (known and desk.has_given(folder)):
            _deliver(client, folder, desk.voucher(folder, proof, challenge=challenge), proof.device_id)
    return result


def _device_id(folder: Path) -> str:
    return str(public_facts(folder)["device_id"])


def public_facts(folder: Path) -> JsonObject:
    """Return what device.json says of a device.

    Raises:
        DeviceFolderError: missing, or without a device_id.
    """
    path = folder / DEVICE_FILE
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise DeviceFolderError(f"{path}: expected device_id in JSON, found {type(error).__name__}") from error
    if not isinstance(content, dict) or "device_id" not in content:
        raise DeviceFolderError(f"{path}: expected device_id in JSON, found {type(content).__name__} without it")
    return content


def _check_proof(proof: ClaimProof, device: DeviceCertificate, *, challenge: bytes | None) -> None:
    """Verify by the device's own key what the service has verified: it is not asked who gets a voucher."""
    if proof.device_id != device.device_id:
        raise ClaimProofError(
            f"{CLAIM_FILE}: expected the IDevID of device {short(proof.device_id)}…, found {short(device.device_id)}…"
        )
    evidence = verify_evidence(proof.evidence, device.public_key)
    if challenge is not None and evidence.nonce != bind_nonce(challenge, device.public_key):
        raise ClaimProofError(f"{CLAIM_FILE}: expected evidence over the challenge of this command, found another's")


def _prove(devices: Sequence[Path], challenge: bytes) -> None:
    command = [sys.executable, "-m", "device_sim", "prove", *map(str, devices), "--challenge", challenge.hex()]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if run.returncode != 0:
        raise StepError(f"device-sim prove: expected exit code 0, found {run.returncode}: {run.stderr.strip()[-500:]}")


def _proof(folder: Path) -> ClaimProof:
    try:
        content = (folder / CLAIM_FILE).read_bytes()
    except OSError as error:
        raise DeviceFolderError(f"{folder.name}: expected {CLAIM_FILE} by `device-sim prove`, found none") from error
    return parse_document(content, ClaimProof)


def _attributes(folder: Path) -> dict[str, str]:
    """Return what the device's maker says of it."""
    said = public_facts(folder).get("attributes", {})
    try:
        return dict(TypeAdapter(Attributes).validate_python(said))
    except ValidationError as error:
        raise DeviceFolderError(f"{folder / DEVICE_FILE}: expected attributes by name, found {said!r:.80}") from error


def _claim(client: ApiClient, proof: ClaimProof, *, product: str, group: str, attributes: Mapping[str, str]) -> bool:
    """Claim one device; return whether it was claimed before."""
    body = {"product": product, "group": group, "proof": proof.model_dump(mode="json"), "attributes": attributes}
    try:
        client.post("/devices", body)
    except RefusedError as refused:
        if refused.status == HTTPStatus.CONFLICT:
            return True
        raise
    return False


def _deliver(client: ApiClient, folder: Path, voucher: bytes, device_id: str) -> None:
    client.post(f"/devices/{device_id}/voucher", {"voucher": base64.b64encode(voucher).decode()})
    replace_file(folder / VOUCHER_FILE, voucher, mode=PUBLIC_MODE)


def _shown_voucher(folder: Path) -> Voucher | None:
    shown = read_voucher(folder)
    if shown is None:
        return None
    return peek_document(shown, VOUCHER_PAYLOAD_TYPE, Voucher, max_bytes=MAX_VOUCHER_BYTES)


def _leads_to(handover: Handover, shown: Voucher) -> bool:
    return (shown.catalog_id, shown.tls_root) == (handover.catalog_id, handover.tls_root)
