"""Sign the time for a device that has no clock of its own."""

from datetime import datetime

from protocol.document import sign_document
from protocol.messages import TIME_PAYLOAD_TYPE, SignedTime
from protocol.signing import Signer


def sign_time(device_nonce: bytes, *signers: Signer, now: datetime) -> bytes:
    """Sign the time in answer to a device's own nonce; a DSSE envelope, JSON bytes.

    Args:
        device_nonce: as the device sent it, 32 bytes.
        signers: every generation of the `director` key: a device that has slept knows an earlier one from the root
            that it verified last, and needs the time before it can verify the next.
        now: UTC, aware.
    """
    return sign_document(SignedTime(device_nonce=device_nonce, now=now), TIME_PAYLOAD_TYPE, *signers)
