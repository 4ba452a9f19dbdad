"""What `tinyfleet device show` says of a device: who it is, what it showed and holds, and why it is let in or not."""

from collections.abc import Mapping

from service.cli.client import JsonObject
from service.cli.output import moment, print_facts, print_line, print_table, short
from service.cli.products import in_words

Facts = Mapping[str, object]


def print_device(device: JsonObject) -> None:
    """Print the answer of GET /devices/{id} for people."""
    admission, attestation = device["admission"], device["attestation"]
    print_line(f"{device['id']}")
    reach = f"admitted, {admission['access']} access" if admission["admitted"] else "not admitted"
    print_line(f"{device['state']}: {reach}")
    for reason in admission["reasons"]:
        print_line(f"  {reason}")
    sections = (
        ("identity", _identity(device)),
        ("claim", _claim(device)),
        ("attributes", device["attributes"]),
        ("certificate", _certificate(device)),
        ("evidence", _evidence(device)),
        ("updates", _updates(device)),
    )
    for title, facts in sections:
        print_line(f"\n{title}")
        print_facts(facts)
    if attestation is not None:
        print_table(f"\nattestation: {_result(attestation)}", _COLUMNS, map(_finding, attestation["findings"]))


_COLUMNS = ("component", "status", "expected", "found", "since")


def _identity(device: JsonObject) -> Facts:
    idevid = device["idevid"]
    if idevid is None:
        return {"IDevID": None}
    revoked = idevid["revoked"]
    return {
        "IDevID serial": idevid["serial"],
        "issuer": idevid["issuer"],
        "valid": f"{moment(idevid['not_before'])} to {moment(idevid['not_after'])}",
        "revoked": "no" if revoked is None else f"since {moment(revoked['revoked_at'])}: {revoked['reason']}",
        "suspected clone": None if device["clone_suspected_at"] is None else device["clone_detail"],
    }


def _claim(device: JsonObject) -> Facts:
    return {
        "claimed": f"{moment(device['claimed_at'])} by {device['claimed_by']}",
        "group": f"{device['product']} / {device['group']}",
        "policy": in_words(device["policy"]),
        "voucher": "kept" if device["has_voucher"] else "none",
        "blocked": device["blocked_at"] and f"{moment(device['blocked_at'])}: {device['blocked_reason']}",
        "last seen": moment(device["last_seen"]),
        "connected": "yes" if device["connected"] else "no",
    }


def _certificate(device: JsonObject) -> Facts:
    certificate = device["certificate"]
    if certificate is None:
        return {"LDevID": None}
    generation = device["issuing_ca"]
    return {
        "LDevID serial": certificate["serial"],
        "issuer": "unknown" if generation is None else f"issuing CA, generation {generation}",
        "access": certificate["access"],
        "not after": moment(certificate["not_after"]),
    }


def _evidence(device: JsonObject) -> Facts:
    evidence = device["evidence"]
    if evidence is None:
        return {"last": None}
    return {
        "last": moment(evidence["at"]),
        "life cycle": evidence["life_cycle"],
        "boot seed": short(evidence["boot_seed"]),
        "components": {part["slot"]: _component(part) for part in evidence["components"]},
    }


def _component(part: JsonObject) -> str:
    listed = part["listed"] or f"unlisted, claims to be {part['claimed']}"
    return f"{listed} ({part['sha256'][:12]}…)"


def _updates(device: JsonObject) -> Facts:
    action = device["action"]
    return {
        "installed": {slot: image["name"] or image["sha256"][:8] for slot, image in device["installed"].items()},
        "action": action and f"{action['release']}: {action['state']}",
        "waits": action and action["waits"],
    }


def _result(attestation: JsonObject) -> str:
    times = f"{attestation['times']} times, last {moment(attestation['last_at'])}"
    return f"{attestation['result']} ({attestation['ear_status']}) since {moment(attestation['since'])}, {times}"


def _finding(finding: JsonObject) -> tuple[object, ...]:
    return (
        finding["component"],
        finding["status"],
        finding["expected"],
        finding["found"],
        moment(finding["since"]),
    )
