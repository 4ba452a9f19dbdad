"""What a catalog's operator has of his own catalog and of others: handovers, bundles, fingerprints.

Papers of others count only once the operator has confirmed the fingerprint that they bear, which he got from the
other side by a way that he trusts; `--fingerprint` takes the place of the question.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from pki.catalog import Catalog, load_catalog
from pki.files import PUBLIC_MODE, replace_file
from pki.handover import Handover, peek_handover, verify_handover
from pki.manufacturers import TRUST_FILE, TrustList, load_trust_list
from pki.online import load_certificate
from protocol.voucher import MAX_VOUCHER_BYTES, encode_public_keys
from service.cli.errors import BadArgumentError
from service.cli.offered import read_input
from service.cli.output import print_line, remark
from service.cli.working_copy import WorkingCopy

FingerprintOption = Annotated[
    str | None,
    typer.Option(
        help="SHA-256 of the other side's X.509 root, as its operator told it; else it is shown and asked for."
    ),
]
OutOption = Annotated[Path | None, typer.Option(help="File to write; else standard output.")]


def own_catalog(operator_dir: Path) -> Catalog:
    """Return the catalog of the operator's folder: who we are, and whose signatures count.

    Raises:
        CatalogError: catalog.json is missing or malformed.
    """
    return load_catalog(operator_dir / "repository" / "catalog.json")


def own_handover(operator_dir: Path, *, now: datetime) -> Handover:
    """Return what vouchers to this catalog hand over; from the operator's side alone, never from the service.

    Of both repositories it is the newest root that was verified here. A device could follow from the first one, too,
    but it would trust keys on the way that have been rotated out, perhaps because somebody stole them.

    Raises:
        PkiError: the ceremony's files are missing or malformed.
        WorkingCopyError: a root is missing.
        OSError: a file cannot be read.
    """
    catalog = own_catalog(operator_dir)
    root = load_certificate(operator_dir / "certificates" / "root.pem")
    director_root, image_root = WorkingCopy(operator_dir).newest_roots()
    return Handover(
        catalog_id=catalog.catalog_id,
        catalog_name=catalog.name,
        made_at=now,
        tls_root=root.public_bytes(Encoding.DER),
        director_root=director_root,
        image_root=image_root,
        package_keys=encode_public_keys(catalog.package_keys),
        golden_keys=encode_public_keys(catalog.golden_keys),
    )


def confirmed_handover(path: Path, fingerprint: str | None) -> Handover:
    """Read another catalog's handover and verify it by a fingerprint that the operator has confirmed.

    Raises:
        BadArgumentError: it was not confirmed.
        HandoverError: it is malformed or not of that catalog.
    """
    content = read_input(path, max_bytes=MAX_VOUCHER_BYTES)
    claimed = peek_handover(content)
    confirmed = confirm(f"catalog {claimed.catalog_name}", claimed.fingerprint, fingerprint)
    return verify_handover(content, fingerprint=confirmed)


def confirm(who: str, found: str, expected: str | None) -> str:
    """Return the fingerprint that the operator trusts: the option's, or the one that was found if he says so.

    Raises:
        BadArgumentError: he does not.
    """
    if expected is not None:
        return expected.replace(":", "").lower()
    if not typer.confirm(f"{who} has the fingerprint {found}. Is that what its operator told you?", err=True):
        raise BadArgumentError("fingerprint: expected a confirmed one, found a no; nothing changed")
    return found


def trust_file(operator_dir: Path) -> Path:
    """Return where the operator keeps the list of trusted manufacturers."""
    return operator_dir / "certificates" / TRUST_FILE


def trusted_list(operator_dir: Path) -> TrustList | None:
    """Return the list of trusted manufacturers, verified, or None if there is none yet.

    Raises:
        PkiError: it is not by this catalog's root key.
    """
    root = load_certificate(operator_dir / "certificates" / "root.pem")
    catalog = own_catalog(operator_dir)
    return load_trust_list(trust_file(operator_dir), root=root, catalog_id=catalog.catalog_id)


def maker_keys(operator_dir: Path) -> list[ec.EllipticCurvePublicKey]:
    """Return the keys by which trusted manufacturers sign the system images of their devices."""
    trusted = trusted_list(operator_dir)
    return [] if trusted is None else [each.system_key for each in trusted.manufacturers]


def hand_out(content: bytes, out: Path | None, *, say: Callable[[str], None] = remark) -> None:
    """Write a paper to a file, or to standard output."""
    if out is None:
        print_line(content.decode())
        return
    replace_file(out, content, mode=PUBLIC_MODE)
    say(f"written: {out}")
