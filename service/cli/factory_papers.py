"""`tinyfleet factory bundle`, `voucher`, `vouchers`: what a manufacturer gives to catalogs that take his devices."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import ValidationError

from pki.chains import DeviceCertificate, verify_idevid
from pki.files import PUBLIC_MODE, replace_file
from pki.manufacturers import Manufacturer, sign_manufacturer
from pki.online import load_certificate
from pki.roles import OfflineKey
from pki.voucher_log import VOUCHER_LOG_FILE, VoucherLog
from pki.vouchers import VoucherAuthority, VoucherRequest
from protocol.geometry import SYSTEM_SLOTS
from protocol.identity import DeviceId, spki_der
from protocol.voucher import MAX_VOUCHER_BYTES
from service.cli import clock
from service.cli.catalog_papers import FingerprintOption, OutOption, confirmed_handover, hand_out, own_catalog
from service.cli.errors import BadArgumentError, DeviceFolderError
from service.cli.factory_packages import factory_release
from service.cli.offered import OfferedImage, read_input, verify_offered, write_offered
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import moment, print_facts, print_json, print_table, remark, short
from service.cli.working_copy import WorkingCopy

IDEVID_FILE = "idevid.pem"
VOUCHER_FILE = "voucher.json"
MAX_CHAIN_BYTES = 16 * 1024
MAX_PAPER_BYTES = 4 * 1024 * 1024


def voucher_authority(operator_dir: Path) -> VoucherAuthority:
    """Return the voucher authority of an operator's folder.

    Raises:
        KeyStoreError: its key is missing or cannot be used.
    """
    signer = offline_keys(operator_dir).load(OfflineKey.VOUCHER)
    return VoucherAuthority(signer, VoucherLog(operator_dir / VOUCHER_LOG_FILE))


def made_here(idevid_chain: bytes, operator_dir: Path) -> DeviceCertificate:
    """Verify that this manufacturer made a device.

    Raises:
        ChainError: he did not.
    """
    certificates = operator_dir / "certificates"
    factory, root = load_certificate(certificates / "factory.pem"), load_certificate(certificates / "root.pem")
    return verify_idevid(idevid_chain, factory=factory, root=root, now=clock.now())


def read_voucher(folder: Path) -> bytes | None:
    """Return the voucher that a device shows, unverified, or None."""
    path = folder / VOUCHER_FILE
    return read_input(path, max_bytes=MAX_VOUCHER_BYTES) if path.exists() else None


def bundle(
    *,
    name: Annotated[str | None, typer.Option(help="Name of the manufacturer; default: the catalog's.")] = None,
    ocsp_url: Annotated[str | None, typer.Option(help="Where an OCSP responder answers for his IDevIDs.")] = None,
    crl_url: Annotated[str | None, typer.Option(help="Where the list of his revoked IDevIDs is.")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that gets boot loader, security monitor and OS of his devices.")
    ] = None,
    out: OutOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Write the bundle that another catalog needs to take devices made here, signed by the root key."""
    keys, certificates = offline_keys(operator_dir), operator_dir / "certificates"
    try:
        manufacturer = Manufacturer(
            name=own_catalog(operator_dir).name if name is None else name,
            made_at=clock.now(),
            root=load_certificate(certificates / "root.pem").public_bytes(Encoding.DER),
            factory=load_certificate(certificates / "factory.pem").public_bytes(Encoding.DER),
            voucher_key=spki_der(keys.load(OfflineKey.VOUCHER).public_key),
            rom_key=spki_der(keys.load(OfflineKey.ROM).public_key),
            ocsp_url=ocsp_url,
            crl_url=crl_url,
        )
    except ValidationError as error:
        raise _bad_option(error) from error
    manufacturer.check()
    if images is not None:
        _write_system_images(images, operator_dir)
    hand_out(sign_manufacturer(manufacturer, keys.load(OfflineKey.ROOT)), out)
    remark(f"fingerprint of manufacturer {manufacturer.name}: {manufacturer.fingerprint}")


def voucher(
    devices: Annotated[
        Path, typer.Argument(help="A device's folder, or a folder of device folders.", exists=True, file_okay=False)
    ],
    *,
    handover: Annotated[Path, typer.Option(help="Handover of the catalog that gets them.")],
    release: Annotated[
        Path | None, typer.Option(help="Release by the catalog that holds them; needed where one does.")
    ] = None,
    expires_days: Annotated[
        int | None, typer.Option(min=1, help="Days in which the devices must take it; default: for ever.")
    ] = None,
    fingerprint: FingerprintOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Give devices that were made here to a catalog; one that another catalog holds only with that one's release."""
    recipient = confirmed_handover(handover, fingerprint)
    released = None if release is None else read_input(release, max_bytes=MAX_PAPER_BYTES)
    folders, authority, now = _device_folders(devices), voucher_authority(operator_dir), clock.now()
    for folder in folders:
        request = VoucherRequest(
            device_id=_device_id(folder, operator_dir),
            handover=recipient,
            unverified_release=released,
            unverified_voucher=read_voucher(folder),
            expires_at=None if expires_days is None else now + timedelta(days=expires_days),
        )
        replace_file(folder / VOUCHER_FILE, authority.issue(request, now=now), mode=PUBLIC_MODE)
    result = {"vouchers": len(folders), "catalog": recipient.catalog_name}
    print_json(result) if as_json else print_facts(result)


def vouchers(
    *,
    device: Annotated[str | None, typer.Option(help="Only this device; beginning of its id.")] = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Verify the log of vouchers, and list who got which device on what grounds."""
    log = VoucherLog(operator_dir / VOUCHER_LOG_FILE)
    issued = [each for each in log.entries() if each.device_id.startswith(device or "")]
    if as_json:
        print_json([each.model_dump(mode="json", exclude={"root_key"}) for each in issued])
        return
    rows = (
        (short(each.device_id), each.sequence, moment(each.issued_at.isoformat()), each.catalog_name, each.assertion)
        for each in issued
    )
    print_table(f"{len(issued)} vouchers", ("device", "sequence", "issued", "catalog", "assertion"), rows)


def _bad_option(error: ValidationError) -> BadArgumentError:
    first = error.errors(include_url=False)[0]
    option = str(first["loc"][0]).replace("_", "-")
    return BadArgumentError(
        f"--{option}: expected what a bundle may say, found {str(first['input'])[:80]!r}: {first['msg']}"
    )


def _device_folders(devices: Path) -> list[Path]:
    folders = (
        [devices] if (devices / IDEVID_FILE).exists() else sorted(p.parent for p in devices.glob(f"*/{IDEVID_FILE}"))
    )
    if not folders:
        raise DeviceFolderError(f"{devices}: expected folders of devices with {IDEVID_FILE}, found none")
    return folders


def _device_id(folder: Path, operator_dir: Path) -> DeviceId:
    chain = read_input(folder / IDEVID_FILE, max_bytes=MAX_CHAIN_BYTES)
    return made_here(chain, operator_dir).device_id


def _write_system_images(folder: Path, operator_dir: Path) -> None:
    catalog, working_copy = own_catalog(operator_dir), WorkingCopy(operator_dir)
    in_force = working_copy.latest(now=clock.now())
    listed = factory_release(in_force, working_copy).images
    for slot in SYSTEM_SLOTS:
        package = working_copy.read_listed(in_force, listed[slot].target)
        offered = OfferedImage(slot, package, verify_offered(package, slot, catalog))
        write_offered(folder / f"{slot.value}.img", offered)
