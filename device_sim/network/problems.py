"""Problem details (RFC 9457): what a service says of a request that it does not serve."""

import json

from device_sim.network.ports import HttpResponse, UnexpectedResponseError

MAX_DETAIL_CHARACTERS = 400
MAX_RETRY_AFTER_SECONDS = 3600  # a service that asks for more is asked again after an hour
TOO_MANY_REQUESTS, UNAVAILABLE = 429, 503


def problem_detail(response: HttpResponse) -> str:
    """Return the human-readable reason of an error response; the body is untrusted and may be anything."""
    try:
        problem = json.loads(response.body)
    except (ValueError, RecursionError):
        problem = None
    members = problem if isinstance(problem, dict) else {}
    for reason in (members.get("detail"), members.get("title")):
        if isinstance(reason, str) and reason:
            # JSON may escape half of a surrogate pair, which no other document carries.
            return reason.encode(errors="replace").decode()[:MAX_DETAIL_CHARACTERS]
    return f"status {response.status} without a reason"


def unexpected(what: str, response: HttpResponse, *, expected: int) -> UnexpectedResponseError:
    """Return the error of a response with another status, with the pause that the service asks for.

    Args:
        what: path or name, for the message.
        response: the service's.
        expected: status.
    """
    return UnexpectedResponseError(
        f"{what}: expected {expected}, found {response.status}: {problem_detail(response)}",
        retry_after_seconds=_retry_after_seconds(response),
    )


def _retry_after_seconds(response: HttpResponse) -> int:
    # RFC 9110 §10.2.3. A date is not read: the device takes no time from HTTP.
    value = response.headers.get("retry-after", "")
    if response.status not in {TOO_MANY_REQUESTS, UNAVAILABLE} or not (value.isascii() and value.isdigit()):
        return 0
    return min(int(value[:9]), MAX_RETRY_AFTER_SECONDS)
