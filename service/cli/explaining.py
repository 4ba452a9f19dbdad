"""What `rollout explain` prints: each decision with its evidence, devices that failed, by cause, wait, or compared."""

from collections.abc import Iterator

from service.cli.client import JsonObject
from service.cli.output import moment, print_facts, print_line, print_table, short

_WAITS_FOR = {
    "retry": "their next attempt",
    "window": "their maintenance window",
    "next-window": "another maintenance window",
    "deferral": "their users",
    "budget": "others of their place",
    "passage": "a release that they must pass through",
}
DEVICES_NAMED = 3  # of each cause, beside a decision; the list below has more


def print_explanation(answer: JsonObject) -> None:
    """Print the answer to why a rollout stands where it stands."""
    rollout = answer["rollout"]
    print_facts({name: rollout.get(name) for name in ("state", "halted_reason", "question", "evidence")})
    for decision in answer["decisions"]:
        _print_decision(decision)
    for kind in answer["failed"]:
        shown = "" if kind["devices"] == len(kind["first"]) else f", the first {len(kind['first'])}"
        print_line(f"failed for {_causes(kind)}: {kind['devices']} devices{shown}")
        for line in _devices(kind):
            print_line(f"  {line}")
    for kind in answer["waiting"]:
        _print_waiting(kind)
    for kind in answer["compared"]:
        _print_compared(kind)
    for kind in answer["counted"]:
        shown = "" if kind["devices"] == len(kind["first"]) else f", the first {len(kind['first'])}"
        print_line(f"counted by {kind['gate']}, {kind['arm']}, {kind['what']}: {kind['devices']} devices{shown}")
    print_counted([device for kind in answer["counted"] for device in kind["first"]])
    if answer["missed"]["devices"]:
        _print_missed(answer["missed"])


def print_counted(counted: list[JsonObject]) -> None:
    """Print which devices gates have counted, of means those alone that said something."""
    rows = [
        (each["gate"], short(each["device_id"]), each["arm"], each["what"], moment(each["at"]), each["detail"])
        for each in counted
        if each["detail"]
    ]
    if rows:
        print_table("Counted by gates", ("gate", "device", "arm", "what", "when", "detail"), rows)


def _print_missed(missed: JsonObject) -> None:
    shown = "" if missed["devices"] == len(missed["first"]) else f", the first {len(missed['first'])}"
    print_line(f"out of a rollback's reach, though they were given the release: {missed['devices']} devices{shown}")
    for device in missed["first"]:
        print_line(f"  {short(device['device_id'])} {device['reason']}")


def _print_waiting(kind: JsonObject) -> None:
    shown = "" if kind["devices"] == len(kind["first"]) else f", the first {len(kind['first'])}"
    print_line(f"wait for {_WAITS_FOR.get(kind['hold'], kind['hold'])}: {kind['devices']} devices{shown}")
    for device in kind["first"]:
        print_line(f"  {short(device['device_id'])} stage {device['stage']}: {device['detail']}")


def _print_compared(kind: JsonObject) -> None:
    found = "agreed" if kind["agrees"] else "disagreed"
    shown = "" if kind["devices"] == len(kind["first"]) else f", the first {len(kind['first'])}"
    print_line(f"{found} in shadow: {kind['devices']} devices{shown}")
    for device in kind["first"]:
        stands = f"stage {device['stage']}, now {device['state']}"
        print_line(f"  {short(device['device_id'])} {stands}: {_counts(device['shadow'])}")


def _counts(counts: JsonObject) -> str:
    said = f"{counts['agreements']} of {counts['frames']} frames alike"
    differing = [f"{count} x {pair}" for pair, count in counts["differing"].items()]
    broke = f"; broke: {counts['failure']}" if counts["failure"] else ""
    return f"{said}{', ' if differing else ''}{', '.join(differing)}{broke}"


def _print_decision(decision: JsonObject) -> None:
    stage = f" stage {decision['stage']}" if decision.get("stage") else ""
    gate = f" ({decision['gate']})" if decision.get("gate") else ""
    print_line(f"{moment(decision['decided_at'])} {decision['decision']}{stage}{gate}: {decision['reason']}")
    if decision["figures"]:
        print_line(f"  figures then: {', '.join(f'{name} {value}' for name, value in decision['figures'].items())}")
    for kind in decision["failed"]:
        print_line(f"  had failed: {_in_short(kind)}")


def _causes(kind: JsonObject) -> str:
    return " and ".join(kind["causes"])


def _in_short(kind: JsonObject) -> str:
    named = [short(device["device_id"]) for device in kind["first"][:DEVICES_NAMED]]
    more = kind["devices"] - len(named)
    return f"{kind['devices']} {_causes(kind)}: {', '.join(named)}{f' and {more} more' if more else ''}"


def _devices(kind: JsonObject) -> Iterator[str]:
    for device in kind["first"]:
        yield f"{short(device['device_id'])} stage {device['stage']}, now {device['state']}"
        for number, each in enumerate(device["attempts"], start=1):
            cause = f" ({each['cause']})" if each["cause"] else ""
            yield f"  attempt {number}, {moment(each['ended_at'])}: {each['state']}{cause} {each['detail']}"
