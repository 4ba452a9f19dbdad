"""Answers of the service about one device: they must be about the device that the operator asked for.

What an offline key signs for good is never about a device that the service alone has named.
"""

from protocol.errors import ProtocolError
from protocol.identity import DeviceId, parse_device_id
from service.cli.errors import AnswerError, BadArgumentError
from service.cli.output import short

MIN_ASKED_DIGITS = 8


class AnotherDeviceError(AnswerError):
    """The service answered for another device than the one that was asked for."""


def device_asked_for(asked: str, answered: object) -> DeviceId:
    """Return the device id of an answer, if it is, or begins with, what the operator asked for.

    Args:
        asked: device id, or its beginning.
        answered: the device id that the answer is about, unverified.

    Raises:
        BadArgumentError: too few digits were asked for to tell devices apart.
        AnotherDeviceError: the answer is about another device, or about none.
    """
    if len(asked) < MIN_ASKED_DIGITS:
        raise BadArgumentError(f"device: expected at least {MIN_ASKED_DIGITS} digits of its id, found {len(asked)}")
    try:
        device_id = parse_device_id(str(answered))
    except ProtocolError as error:
        raise AnotherDeviceError(f"service's answer: {error}") from error
    if not device_id.startswith(asked):
        raise AnotherDeviceError(f"service's answer: expected device {short(asked)}…, found {short(device_id)}…")
    return device_id
