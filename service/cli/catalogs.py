"""`tinyfleet catalog`: its papers, proof that its key is ours, and the manufacturers whose devices it takes."""

from pathlib import Path
from typing import Annotated

import typer

from pki.ceremony import root_authority
from pki.files import PUBLIC_MODE, replace_file
from pki.handover import sign_handover
from pki.manufacturers import (
    MAX_BUNDLE_BYTES,
    TRUST_FILE,
    Manufacturer,
    TrustList,
    peek_manufacturer,
    sign_trust_list,
    verify_manufacturer,
)
from pki.roles import OfflineKey
from service.cli import clock
from service.cli.catalog_papers import (
    FingerprintOption,
    OutOption,
    confirm,
    hand_out,
    own_catalog,
    own_handover,
    trust_file,
    trusted_list,
)
from service.cli.client import connect
from service.cli.errors import BadArgumentError
from service.cli.offered import read_input
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption
from service.cli.output import print_json, print_line, print_table, remark

app = typer.Typer(help="The catalog: its papers, its authority, trusted manufacturers.", no_args_is_help=True)

ServiceDirOption = Annotated[
    Path | None,
    typer.Option(help="The service's folder, if it is on this machine: the list is copied there.", file_okay=False),
]


@app.command()
def export(*, out: OutOption = None, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Write this catalog's handover: what a manufacturer needs to give it devices, signed by the root key."""
    handover = own_handover(operator_dir, now=clock.now())
    hand_out(sign_handover(handover, offline_keys(operator_dir).load(OfflineKey.ROOT)), out)
    remark(f"fingerprint of catalog {handover.catalog_name}: {handover.fingerprint}")


@app.command()
def certificate(*, out: OutOption = None, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR) -> None:
    """Download the chain of the authority that issues operational certificates, PEM, up to the root."""
    with connect(operator_dir) as client:
        chains = client.get("/catalog/authorities")["chains"]
    hand_out(chains[0].encode(), out)


@app.command()
def prove(
    *,
    nonce: Annotated[str, typer.Option(help="What the other system wants certified; at most 64 characters.")],
    out: OutOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Prove that the service holds the catalog's issuing key: a certificate whose common name is the nonce."""
    with connect(operator_dir) as client:
        answer = client.post("/catalog/proof-of-possession", {"nonce": nonce})
    if as_json:
        print_json(answer)
        return
    hand_out(answer["certificate"].encode(), out)


@app.command("trust-manufacturer")
def trust_manufacturer(
    bundle: Annotated[Path, typer.Argument(help="Bundle by `tinyfleet factory bundle` of the manufacturer.")],
    *,
    fingerprint: FingerprintOption = None,
    service_dir: ServiceDirOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Take devices of a manufacturer: his bundle goes into the list that the root key signs."""
    content = read_input(bundle, max_bytes=MAX_BUNDLE_BYTES)
    claimed = peek_manufacturer(content)
    confirmed = confirm(f"manufacturer {claimed.name}", claimed.fingerprint, fingerprint)
    manufacturer = verify_manufacturer(content, fingerprint=confirmed)
    if manufacturer.fingerprint == own_handover(operator_dir, now=clock.now()).fingerprint:
        raise BadArgumentError("bundle: expected another manufacturer's, found that of this catalog's own factory")
    _publish(_with(manufacturer, operator_dir), operator_dir, service_dir)


@app.command("distrust-manufacturer")
def distrust_manufacturer(
    name: Annotated[str, typer.Argument(help="Name of the manufacturer.")],
    *,
    service_dir: ServiceDirOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Take no devices of a manufacturer any more; devices that are claimed can no longer attest."""
    trusted = trusted_list(operator_dir)
    if trusted is None:
        raise BadArgumentError("manufacturers: expected a list by `catalog trust-manufacturer`, found none")
    _publish(trusted.without(name, made_at=clock.now()), operator_dir, service_dir)


@app.command()
def manufacturers(*, operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR, as_json: JsonOption = False) -> None:
    """List the manufacturers that the running service trusts besides its own factory."""
    with connect(operator_dir) as client:
        found = client.get("/catalog/manufacturers")["items"]
    if as_json:
        print_json(found)
        return
    print_table(f"{len(found)} manufacturers", ("name", "fingerprint"), [(m["name"], m["fingerprint"]) for m in found])


def _with(manufacturer: Manufacturer, operator_dir: Path) -> TrustList:
    trusted, now = trusted_list(operator_dir), clock.now()
    if trusted is not None:
        return trusted.trusting(manufacturer, made_at=now)
    catalog = own_catalog(operator_dir)
    return TrustList(catalog_id=catalog.catalog_id, version=1, made_at=now, manufacturers=(manufacturer,))


def _publish(trusted: TrustList, operator_dir: Path, service_dir: Path | None) -> None:
    keys = offline_keys(operator_dir)
    root_authority(operator_dir, keys)  # the key is that of the root's certificate
    signed = sign_trust_list(trusted, keys.load(OfflineKey.ROOT))
    targets = [trust_file(operator_dir)]
    if service_dir is not None:
        targets.append(service_dir / "certificates" / TRUST_FILE)
    for path in targets:
        replace_file(path, signed, mode=PUBLIC_MODE)
    names = ", ".join(each.name for each in trusted.manufacturers) or "none but our own"
    print_line(f"trusted manufacturers: {names}")
    remark(f"copy {targets[-1].name} into certificates/ of the service's folder if it is not there, and restart it")
