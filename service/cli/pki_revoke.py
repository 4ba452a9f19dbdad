"""`tinyfleet pki revoke` and `tinyfleet pki crl`: birth certificates that are not to be trusted any more.

The list is signed here, by the factory authority's offline key; the service only publishes and enforces it. It sends
the certificate of the device that is to be revoked, and cannot have another device's revoked. `--issuer` with
`--certificate` puts a certificate of the service or of an authority on the list of who issued it: an issuing CA on the
root's, a server's on the server CA's, an OCSP responder's on the factory's.
"""

from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from cryptography import x509

from pki.authority import CertificateAuthority
from pki.chains import MAX_CHAIN_BYTES, issued_by, load_chain
from pki.revocation import MAX_CRL_BYTES, Reason, Revocation, RevocationList, named_issuer
from pki.roles import OfflineKey
from protocol.identity import device_id_in
from service.cli import clock
from service.cli.asked_device import device_asked_for
from service.cli.client import ApiClient, JsonObject, connect
from service.cli.errors import BadArgumentError, CliError
from service.cli.offered import read_input
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, JsonOption, OperatorDirOption, one_id
from service.cli.output import moment, print_facts, print_json, print_table, remark, short
from service.cli.revocation_lists import PATH, RevocationLists, offline_authority

DEFAULT_DAYS = 90
REMOVE = "remove-from-crl"  # RFC 5280 §5.3.1

crl_app = typer.Typer(help="Revocation lists of the offline authorities.", no_args_is_help=True)


class Issuer(StrEnum):
    """The offline authorities, by the names of their keys."""

    FACTORY = OfflineKey.FACTORY
    ROOT = OfflineKey.ROOT
    SERVER_CA = OfflineKey.SERVER_CA


class RevocationError(CliError):
    """The certificate cannot be revoked, or released, as it stands."""


DaysOption = Annotated[int, typer.Option("--days", min=1, max=400, help="Until the next list comes at the latest.")]
_REASONS = ", ".join([*Reason, REMOVE])


def revoke(
    device: Annotated[
        str | None,
        typer.Argument(help="Device id, or a unique beginning of at least 8 digits.", callback=one_id),
    ] = None,
    *,
    reason: Annotated[str, typer.Option(help=f"Why: {_REASONS}. The last one releases a certificate-hold.")],
    certificate: Annotated[
        Path | None,
        typer.Option(help="PEM: IDevID of a device that is not claimed, or another's.", exists=True, dir_okay=False),
    ] = None,
    issuer: Annotated[Issuer, typer.Option(help="Who issued the certificate.")] = Issuer.FACTORY,
    days: DaysOption = DEFAULT_DAYS,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Revoke a device's birth certificate: the device is shut out at once, and for good; or another certificate."""
    if (device is None) == (certificate is None):
        raise BadArgumentError("revoke: expected a device or --certificate, found both or neither")
    if device is not None and issuer is not Issuer.FACTORY:
        raise BadArgumentError(f"revoke: expected --certificate of what {issuer} issued, found a device")
    if reason not in {*Reason, REMOVE}:
        raise BadArgumentError(f"reason: expected one of {_REASONS}, found {reason!r}")
    authority = offline_authority(operator_dir, offline_keys(operator_dir), issuer)
    with connect(operator_dir) as client:
        leaf = _certificate(client, device, certificate, authority=authority)
        lists = RevocationLists(operator_dir, client, authority)
        before = lists.in_force()
        revoked = _changed(before, leaf.serial_number, reason)
        crl = lists.publish(before, revoked, lifetime=timedelta(days=days))
    facts = {"serial": f"{leaf.serial_number:x}", "reason": reason, **_facts(crl)}
    print_json(facts) if as_json else print_facts(facts)


@crl_app.command()
def show(
    issuer: Annotated[Issuer | None, typer.Option(help="Show what is on this authority's list.")] = None,
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Show the lists in force, when they are due, and what is on one of them."""
    with connect(operator_dir) as client:
        if issuer is None:
            _show_lists(list(client.items(PATH)), as_json=as_json)
            return
        authority = offline_authority(operator_dir, offline_keys(operator_dir), issuer)
        crl = RevocationLists(operator_dir, client, authority).in_force()
    entries = [] if crl is None else list(_entries(crl))
    if as_json:
        print_json({**({} if crl is None else _facts(crl)), "items": entries})
        return
    print_table(
        f"{issuer}: {len(entries)} revoked", ("serial", "reason", "since"), (list(each.values()) for each in entries)
    )


@crl_app.command()
def renew(
    issuer: Annotated[Issuer, typer.Option(help="Whose list.")] = Issuer.FACTORY,
    *,
    days: DaysOption = DEFAULT_DAYS,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Sign and publish the next list with the same entries, or the first one."""
    authority = offline_authority(operator_dir, offline_keys(operator_dir), issuer)
    with connect(operator_dir) as client:
        lists = RevocationLists(operator_dir, client, authority)
        before = lists.in_force()
        crl = lists.publish(before, {} if before is None else before.revoked, lifetime=timedelta(days=days))
    facts = {"issuer": issuer, **_facts(crl)}
    print_json(facts) if as_json else print_facts(facts)


@crl_app.command()
def publish(
    file: Annotated[Path, typer.Argument(help="Signed list, DER.", exists=True, dir_okay=False)],
    *,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
    as_json: JsonOption = False,
) -> None:
    """Publish a list that was signed elsewhere: by a trusted manufacturer, or with a key that is not here."""
    unverified_crl = read_input(file, max_bytes=MAX_CRL_BYTES)
    with connect(operator_dir) as client:
        client.put_bytes(f"{PATH}/{named_issuer(unverified_crl)}", unverified_crl)
        statuses = list(client.items(PATH))
    _show_lists(statuses, as_json=as_json)


def _certificate(
    client: ApiClient, device: str | None, file: Path | None, *, authority: CertificateAuthority
) -> x509.Certificate:
    if file is None:
        unverified_chain = str(client.get(f"/devices/{device}")["idevid_chain"]).encode()
    else:
        unverified_chain = read_input(file, max_bytes=MAX_CHAIN_BYTES)
    leaf = load_chain(unverified_chain)[0]
    if not issued_by(leaf, authority.certificate):
        name = authority.certificate.subject.rfc4514_string()
        raise RevocationError(f"certificate: expected one by {name} of this folder, found another issuer's")
    if leaf == authority.certificate:
        raise RevocationError("certificate: expected one that the root can revoke, found the root's own")
    if device is not None:
        device_asked_for(device, device_id_in(leaf))
    return leaf


def _changed(before: RevocationList | None, serial: int, reason: str) -> dict[int, Revocation]:
    revoked = {} if before is None else dict(before.revoked)
    found = revoked.get(serial)
    if reason == REMOVE:
        if found is None or found.reason is not Reason.CERTIFICATE_HOLD:
            state = "not revoked" if found is None else found.reason
            raise RevocationError(f"certificate {serial:x}: expected it on hold, found it {state}")
        del revoked[serial]
        remark("released; a device stays blocked until `tinyfleet device unblock`")
        return revoked
    if found is not None and found.reason is not Reason.CERTIFICATE_HOLD:
        raise RevocationError(f"certificate {serial:x}: expected it not revoked, found it revoked ({found.reason})")
    revoked_at = clock.now().replace(microsecond=0) if found is None else found.revoked_at
    revoked[serial] = Revocation(revoked_at, Reason(reason))
    return revoked


def _show_lists(statuses: list[JsonObject], *, as_json: bool) -> None:
    if as_json:
        print_json(statuses)
        return
    columns = ("issuer", "state", "number", "revoked", "next update", "path")
    rows = (
        (
            status["issuer"],
            status["state"],
            status["number"],
            status["revoked"],
            moment(status["next_update"]),
            short(status["path"].rpartition("/")[2]),
        )
        for status in statuses
    )
    print_table("Revocation lists", columns, rows)


def _entries(crl: RevocationList) -> Iterator[dict[str, str]]:
    for serial, revocation in sorted(crl.revoked.items()):
        yield {"serial": f"{serial:x}", "reason": revocation.reason, "since": f"{revocation.revoked_at:%F %T}"}


def _facts(crl: RevocationList) -> dict[str, object]:
    return {"number": crl.number, "revoked": len(crl.revoked), "next_update": f"{crl.next_update:%FT%TZ}"}
