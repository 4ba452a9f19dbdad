"""Sign vouchers: the voucher authority's word on which catalog a device belongs to."""

from protocol.document import sign_document
from protocol.signing import Signer
from protocol.voucher import VOUCHER_PAYLOAD_TYPE, Voucher


def sign_voucher(voucher: Voucher, signer: Signer) -> bytes:
    """Sign a voucher with the `voucher` key; a DSSE envelope, JSON bytes."""
    return sign_document(voucher, VOUCHER_PAYLOAD_TYPE, signer)
