"""Problem details (RFC 9457): what a service says of a request that it does not serve."""

import json

from device_sim.network.ports import HttpResponse

MAX_DETAIL_CHARACTERS = 400


def problem_detail(response: HttpResponse) -> str:
    """Return the human-readable reason of an error response; the body is untrusted and may be anything."""
    try:
        problem = json.loads(response.body)
    except (ValueError, RecursionError):
        problem = None
    if not isinstance(problem, dict):
        return f"status {response.status} without a reason"
    reason = problem.get("detail") or problem.get("title") or f"status {response.status}"
    return str(reason)[:MAX_DETAIL_CHARACTERS]
