"""The device's question whether something waits for it."""

from device_sim.errors import DeviceSimError
from device_sim.network.ports import HttpTransport, UnexpectedResponseError
from device_sim.network.problems import problem_detail, unexpected
from protocol.document import DocumentError, parse_document
from protocol.messages import PollReply

POLL_PATH = "/device/v1/poll"
MAX_REPLY_BYTES = 16 * 1024
OK = 200
NO_ACCESS = frozenset({401, 403})


class AccessLostError(DeviceSimError):
    """The service does not take the operational certificate any more: the device has to attest anew."""


def poll(transport: HttpTransport) -> PollReply:
    """Ask the service what waits for the device.

    Raises:
        AccessLostError: the service refuses the certificate.
        NetworkError: the service was not reached or broke the protocol.
    """
    response = transport.request("GET", POLL_PATH, max_bytes=MAX_REPLY_BYTES)
    if response.status in NO_ACCESS:
        raise AccessLostError(problem_detail(response))
    if response.status != OK:
        raise unexpected("poll", response, expected=OK)
    try:
        return parse_document(response.body, PollReply, max_bytes=MAX_REPLY_BYTES)
    except DocumentError as error:
        raise UnexpectedResponseError(str(error)) from error
