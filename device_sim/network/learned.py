"""The device's side of `protocol.learned_backup`: it sends what it learned, and asks what is ordered."""

from device_sim.errors import DeviceSimError
from device_sim.network.ports import HttpTransport, UnexpectedResponseError
from device_sim.network.problems import problem_detail, unexpected
from protocol.document import Document, DocumentError, canonical_json, parse_document
from protocol.learned_backup import MAX_ORDERS_BYTES, LearnedOrder, LearnedOrders, LearnedOutcome, LearnedUpload

LEARNED_PATH = "/device/v1/learned"
OUTCOME_PATH = f"{LEARNED_PATH}/outcome"
MAX_REPLY_BYTES = 16 * 1024
OK, NO_CONTENT = 200, 204
FOR_GOOD = frozenset({404, 409, 413, 422})


class LearnedRefusedError(DeviceSimError):
    """The service refuses a state, or the outcome of an order, for good."""


def fetch_orders(transport: HttpTransport) -> tuple[LearnedOrder, ...]:
    """Ask what is ordered, oldest first.

    Raises:
        NetworkError: the service was not reached or broke the protocol.
    """
    response = transport.request("GET", LEARNED_PATH, max_bytes=MAX_ORDERS_BYTES)
    if response.status != OK:
        raise unexpected("learned", response, expected=OK)
    try:
        return parse_document(response.body, LearnedOrders, max_bytes=MAX_ORDERS_BYTES).orders
    except DocumentError as error:
        raise UnexpectedResponseError(str(error)) from error


def send_state(transport: HttpTransport, upload: LearnedUpload) -> None:
    """Have the service keep a state.

    Raises:
        LearnedRefusedError: the service will never take it.
        NetworkError: it was not reached, broke the protocol, or wants the state later.
    """
    _post(transport, LEARNED_PATH, upload)


def send_outcome(transport: HttpTransport, outcome: LearnedOutcome) -> None:
    """Say how an order went; raises as `send_state`."""
    _post(transport, OUTCOME_PATH, outcome)


def _post(transport: HttpTransport, path: str, document: Document) -> None:
    response = transport.request("POST", path, max_bytes=MAX_REPLY_BYTES, body=canonical_json(document))
    if response.status in FOR_GOOD:
        raise LearnedRefusedError(problem_detail(response))
    if response.status != NO_CONTENT:
        raise unexpected(path, response, expected=NO_CONTENT)
