"""`tinyfleet device release`: let devices go to another catalog.

The service shuts them out first, then the root key signs the release: a device is never released while it is still
let in here. A release that waits for a second person is not signed; the same command goes on afterwards.

The service says which voucher each device had; it cannot have another device released than those that were asked for,
nor one from another voucher than the log of vouchers knows, where the devices were made here.
"""

from http import HTTPStatus
from pathlib import Path
from typing import Annotated

import typer

from pki.handover import MAX_REASON, MAX_RELEASED_DEVICES, DeviceRelease, Handover, sign_device_release
from pki.roles import OfflineKey
from pki.voucher_log import VOUCHER_LOG_FILE, VoucherLog
from protocol.voucher import MAX_SEQUENCE
from service.cli import clock
from service.cli.approvals import remark_outcome
from service.cli.asked_device import device_asked_for
from service.cli.catalog_papers import FingerprintOption, OutOption, confirmed_handover, hand_out, own_catalog
from service.cli.client import ApiClient, JsonObject, connect
from service.cli.errors import AnswerError, BadArgumentError, CliError, RefusedError
from service.cli.offline_keys import offline_keys
from service.cli.options import DEFAULT_OPERATOR_DIR, OperatorDirOption, one_id
from service.cli.output import remark, short


class ReleaseWaitsError(CliError):
    """A device's release waits for another operator's approval, so nothing was signed."""


class ReleasedElsewhereError(CliError):
    """The device was released to another catalog before."""


class AnotherVoucherError(CliError):
    """The service names another voucher than the last one in the operator's log."""


def _ids(devices: list[str]) -> list[str]:
    return [str(one_id(device)) for device in devices]


def _reason(text: str) -> str:
    """Refuse what the release cannot say, before a device is shut out for it."""
    if len(text) > MAX_REASON or not text.isprintable():
        raise BadArgumentError(
            f"reason: expected up to {MAX_REASON} printable characters, found {len(text)}: {text[:80]!r}"
        )
    return text


def release(
    devices: Annotated[
        list[str],
        typer.Argument(help="Device ids, or unique beginnings of at least 8 digits.", callback=_ids),
    ],
    *,
    to: Annotated[Path, typer.Option(help="Handover of the catalog that gets them (`tinyfleet catalog export`).")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log and the release.", callback=_reason)],
    fingerprint: FingerprintOption = None,
    out: OutOption = None,
    operator_dir: OperatorDirOption = DEFAULT_OPERATOR_DIR,
) -> None:
    """Let devices go to another catalog: shut out here at once, and their release signed for the manufacturer."""
    if len(devices) > MAX_RELEASED_DEVICES:
        raise BadArgumentError(f"devices: expected at most {MAX_RELEASED_DEVICES}, found {len(devices)}")
    handover = confirmed_handover(to, fingerprint)
    root = offline_keys(operator_dir).load(OfflineKey.ROOT)
    with connect(operator_dir) as client:
        departures = [_depart(client, device, handover, reason=reason) for device in devices]
    waiting = sum(departure is None for departure in departures)
    if waiting:
        raise ReleaseWaitsError(
            f"release: expected every device shut out, found {waiting} that wait for approval; then run this again"
        )
    log = VoucherLog(operator_dir / VOUCHER_LOG_FILE)
    ended = dict(_ended_voucher(each, log) for each in departures if each is not None)
    signed = DeviceRelease(
        from_catalog_id=own_catalog(operator_dir).catalog_id,
        to_catalog_id=handover.catalog_id,
        to_fingerprint=handover.fingerprint,
        released_at=clock.now(),
        reason=reason,
        devices=ended,
    )
    hand_out(sign_device_release(signed, root), out)
    remark(f"released {len(signed.devices)} devices to catalog {handover.catalog_name}")


def _depart(client: ApiClient, device: str, handover: Handover, *, reason: str) -> JsonObject | None:
    """Have a device shut out; return what its release must say, or None while that waits for a second person."""
    departure = _departure(client, device)
    if departure is None:
        wanted = {
            "catalog_id": handover.catalog_id,
            "catalog_name": handover.catalog_name,
            "fingerprint": handover.fingerprint,
            "reason": reason,
        }
        answer = client.post(f"/devices/{device}/release", wanted)
        remark_outcome(device, f"released to catalog {handover.catalog_name}", answer)
        departure = _departure(client, device)
    if departure is not None:
        device_asked_for(device, departure["device_id"])
    if departure is not None and departure["fingerprint"] != handover.fingerprint:
        raise ReleasedElsewhereError(
            f"{short(device)}: expected one that goes to catalog {handover.catalog_name}, "
            f"found it released to {departure['catalog_name']}"
        )
    return departure


def _departure(client: ApiClient, device: str) -> JsonObject | None:
    try:
        return client.get(f"/devices/{device}/release")
    except RefusedError as refused:
        if refused.status != HTTPStatus.CONFLICT:
            raise
        return None


def _ended_voucher(departure: JsonObject, log: VoucherLog) -> tuple[str, int]:
    """Return a device's id and the sequence of the voucher that its release ends."""
    device_id, sequence = departure["device_id"], departure["voucher_sequence"]
    if type(sequence) is not int or not 0 < sequence <= MAX_SEQUENCE:
        raise AnswerError(f"{short(device_id)}: expected the sequence of its voucher, found {str(sequence)[:40]}")
    last = log.last_of(device_id)
    if last is not None and last.sequence != sequence:
        raise AnotherVoucherError(
            f"{short(device_id)}: expected voucher {last.sequence} as in the log of vouchers, found {sequence}"
        )
    return device_id, sequence
