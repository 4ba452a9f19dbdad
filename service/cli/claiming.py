"""Claiming: challenge, proof of identity, claim, voucher; for every device of a folder.

A device that is claimed already gets its voucher if it has none: an interrupted claim is finished by the same command.
What a voucher hands over comes from the operator's side alone, never from the service.
"""

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http import HTTPStatus
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pki.files import PUBLIC_MODE, replace_file
from pki.keystore import KeyStore
from pki.roles import OfflineKey
from pki.vouchers import sign_voucher
from protocol.document import parse_document
from protocol.messages import ClaimChallenge, ClaimProof
from protocol.signing import Signer
from protocol.voucher import Voucher, encode_public_keys
from service.cli import clock
from service.cli.client import ApiClient
from service.cli.errors import DeviceFolderError, RefusedError, StepError
from service.cli.offline_keys import offline_keys

CLAIM_FILE = "claim.json"
DEVICE_FILE = "device.json"
VOUCHER_FILE = "voucher.json"


@dataclass(frozen=True, slots=True)
class ClaimResult:
    """What became of each device; device ids."""

    claimed: list[str] = field(default_factory=list)
    already_claimed: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Handover:
    """What every voucher of a catalog hands over; see `Voucher`."""

    catalog_id: str
    catalog_name: str
    tls_root: bytes
    director_root: bytes
    image_root: bytes
    package_keys: Sequence[ec.EllipticCurvePublicKey]
    golden_keys: Sequence[ec.EllipticCurvePublicKey]

    def voucher(self, device_id: str, issued_at: datetime) -> Voucher:
        """Make the voucher of one device."""
        return Voucher(
            device_id=device_id,
            catalog_id=self.catalog_id,
            catalog_name=self.catalog_name,
            sequence=int(issued_at.timestamp()),
            issued_at=issued_at,
            tls_root=self.tls_root,
            director_root=self.director_root,
            image_root=self.image_root,
            package_keys=encode_public_keys(self.package_keys),
            golden_keys=encode_public_keys(self.golden_keys),
        )


def claim_devices(
    client: ApiClient, devices: Path, *, operator_dir: Path, product: str, group: str, prove: bool
) -> ClaimResult:
    """Claim every device of a folder and hand each its voucher.

    Args:
        client: of the service that takes the claim.
        devices: folder of device folders.
        operator_dir: holds the voucher key.
        product: name of the product.
        group: name of its device group.
        prove: start `device-sim prove` for the proofs; else they lie in the devices' folders.

    Raises:
        CliError: a device gives no proof, or the service refuses one; devices before it are claimed.
        PkiError: the voucher key cannot be used.
    """
    folders = {_device_id(path): path for path in sorted(devices.iterdir()) if (path / DEVICE_FILE).exists()}
    if not folders:
        raise DeviceFolderError(f"{devices}: expected folders of devices, found none")
    # A device that has both claim and voucher may be running, and has nothing to prove.
    known_ids = {str(device["id"]) for device in client.items("/devices")}
    done = {known_id for known_id in known_ids & folders.keys() if (folders[known_id] / VOUCHER_FILE).exists()}
    waiting = [path for device_id, path in folders.items() if device_id not in done]
    result = ClaimResult(already_claimed=sorted(done))
    if prove and waiting:
        challenge = ClaimChallenge.model_validate(client.post("/claims/challenge"))
        _prove(waiting if done else [devices], challenge.challenge)
    keys = offline_keys(operator_dir)
    handover = _handover(operator_dir, keys)
    voucher_signer = keys.load(OfflineKey.VOUCHER)
    for folder in waiting:
        proof = _proof(folder)
        known = _claim(client, proof, product=product, group=group)
        (result.already_claimed if known else result.claimed).append(proof.device_id)
        if not (known and (folder / VOUCHER_FILE).exists()):
            _deliver(client, folder, handover.voucher(proof.device_id, clock.now()), voucher_signer)
    return result


def _device_id(folder: Path) -> str:
    path = folder / DEVICE_FILE
    try:
        return str(json.loads(path.read_bytes())["device_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DeviceFolderError(f"{path}: expected device_id in JSON, found {type(error).__name__}") from error


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


def _claim(client: ApiClient, proof: ClaimProof, *, product: str, group: str) -> bool:
    """Claim one device; return whether it was claimed before."""
    body = {"product": product, "group": group, "proof": proof.model_dump(mode="json")}
    try:
        client.post("/devices", body)
    except RefusedError as refused:
        if refused.status == HTTPStatus.CONFLICT:
            return True
        raise
    return False


def _deliver(client: ApiClient, folder: Path, voucher: Voucher, signer: Signer) -> None:
    signed = sign_voucher(voucher, signer)
    client.post(f"/devices/{voucher.device_id}/voucher", {"voucher": base64.b64encode(signed).decode()})
    replace_file(folder / VOUCHER_FILE, signed, mode=PUBLIC_MODE)


def _handover(operator_dir: Path, keys: KeyStore) -> Handover:
    repository = operator_dir / "repository"
    catalog = json.loads((repository / "catalog.json").read_bytes())
    tls_root = x509.load_pem_x509_certificate((operator_dir / "certificates" / "root.pem").read_bytes())
    return Handover(
        catalog_id=catalog["id"],
        catalog_name=catalog["name"],
        tls_root=tls_root.public_bytes(Encoding.DER),
        director_root=(repository / "director.root.json").read_bytes(),
        image_root=(repository / "1.root.json").read_bytes(),
        package_keys=[keys.load(OfflineKey.PACKAGE).public_key],
        golden_keys=[keys.load(OfflineKey.GOLDEN).public_key],
    )
