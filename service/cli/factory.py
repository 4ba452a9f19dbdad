"""`tinyfleet factory`: what a manufacturer does: factory images, birth certificates, vouchers, his bundle."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pki import profiles
from pki.authority import CertificateAuthority
from pki.ceremony import factory_authority
from pki.csr import MAX_CSR_BYTES, verify_idevid_csr
from pki.files import PUBLIC_MODE, replace_file
from pki.issuance import OPERATOR_LOG_FILE, IssuanceKind, append_to_file, facts_of
from pki.keystore import KeyStore
from pki.roles import OfflineKey
from service.cli import clock, factory_papers
from service.cli.catalog_papers import own_catalog
from service.cli.claiming import DEVICE_FILE, public_facts
from service.cli.client import connect
from service.cli.errors import DeviceFolderError
from service.cli.factory_images import build_factory_images
from service.cli.factory_packages import FACTORY_RELEASE, FactoryPackages, has_factory_release
from service.cli.offered import read_input
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_facts, print_json, print_line
from service.cli.publishing import NewRelease
from service.cli.release_documents import Origin, release_documents
from service.cli.release_drafts import propose_release
from service.cli.settling import Consent, Session, report, settle
from service.cli.working_copy import WorkingCopy

app = typer.Typer(help="The manufacturer: factory images, birth certificates, vouchers.", no_args_is_help=True)
app.command()(factory_papers.bundle)
app.command()(factory_papers.voucher)
app.command()(factory_papers.vouchers)

IDEVID_FILE = "idevid.pem"


@app.command()
def images(
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Build and sign the factory images, and publish them as the release that devices are made with."""
    keys, working_copy = offline_keys(operator_dir), WorkingCopy(operator_dir)
    with connect(operator_dir) as client:
        in_force = working_copy.fetch(client, now=clock.now())
        if has_factory_release(in_force):
            print_json({"already": True}) if as_json else print_line("the factory release is in force already")
            return
        catalog = own_catalog(operator_dir)
        built = list(build_factory_images(keys, catalog, working_copy=working_copy, now=clock.now()))
        session = Session(client, working_copy, keys, clock.now())
        documents = release_documents(session, FACTORY_RELEASE, Origin(), offered=built)
        draft = propose_release(session, NewRelease(FACTORY_RELEASE, offered=built, factory=True, documents=documents))
        answer = settle(session, draft, Consent(yes=True, quiet=as_json))
    report(answer, as_json=as_json)


@app.command()
def sign(
    devices: Annotated[Path, typer.Argument(help="Folder of device folders.", exists=True, file_okay=False)],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Give each new device its IDevID certificate, the keys that it trusts from birth, and the factory images."""
    folders = sorted(path.parent for path in devices.glob("*/csr.pem"))
    if not folders:
        raise DeviceFolderError(f"{devices}: expected folders of devices with a csr.pem, found none")
    new = [folder for folder in folders if not (folder / IDEVID_FILE).exists()]
    keys = offline_keys(operator_dir)
    packages = FactoryPackages(WorkingCopy(operator_dir), now=clock.now())
    made_with = {version: packages.with_os(version) for version in map(_os_version, new)}
    authorities = _authorities(keys)
    factory = factory_authority(operator_dir, keys)
    issued = {folder: _idevid(folder, factory) for folder in new}  # every CSR is verified before anything is written
    _log(operator_dir, issued.values(), issuer=factory.certificate)
    first: dict[bytes, Path] = {}
    for folder, certificate in issued.items():
        for slot, package in made_with[_os_version(folder)].items():
            path = folder / "factory" / f"{slot.value.replace('/', '_')}.img"
            _write_shared(path, package, same_as=first.setdefault(package, path))
        _write(folder / "authorities.json", authorities)
        _write(folder / IDEVID_FILE, factory.chain_pem(certificate))  # last: says that the device is done
    result = {"signed": len(new), "signed_before": len(folders) - len(new)}
    print_json(result) if as_json else print_facts(result)


def _os_version(folder: Path) -> str | None:
    """Return the OS that a device is made with, as its revision has it; None is the factory release's."""
    said = public_facts(folder).get("os_version") if (folder / DEVICE_FILE).exists() else None
    if said is None or isinstance(said, str):
        return said
    raise DeviceFolderError(f"{folder / DEVICE_FILE}: expected os_version as a text, found {type(said).__name__}")


def _authorities(keys: KeyStore) -> bytes:
    trusted = {"rom_key": OfflineKey.ROM, "voucher_key": OfflineKey.VOUCHER}
    return json.dumps({name: _pem(keys.load(role).public_key) for name, role in trusted.items()}).encode()


def _pem(public_key: ec.EllipticCurvePublicKey) -> str:
    return public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _idevid(folder: Path, factory: CertificateAuthority) -> x509.Certificate:
    request = verify_idevid_csr(read_input(folder / "csr.pem", max_bytes=MAX_CSR_BYTES))
    if not request.device_id.startswith(folder.name):
        raise DeviceFolderError(f"{folder}: expected a folder named after {request.device_id[:16]}, found another name")
    return factory.issue(profiles.idevid(request.device_id, now=clock.now()), request.public_key)


def _log(operator_dir: Path, certificates: Iterable[x509.Certificate], *, issuer: x509.Certificate) -> None:
    now = clock.now()
    facts = [facts_of(each, kind=IssuanceKind.IDEVID, issuer=issuer, at=now) for each in certificates]
    append_to_file(operator_dir / OPERATOR_LOG_FILE, facts)


def _write_shared(path: Path, content: bytes, *, same_as: Path) -> None:
    """Write a file, or link it to one with the same content: of a fleet's factory images one copy is enough."""
    if path == same_as:
        _write(path, content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.hardlink_to(same_as)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content, mode=PUBLIC_MODE)
