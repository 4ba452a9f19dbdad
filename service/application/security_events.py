"""Security events of updates: which attack a refusal looks like, by which rule, in which action and release.

Where a device refuses, its report tells of it at once and its signed version manifest confirms it. That nothing is
heard of a device is for the service to notice (drop-request, Uptane deployment considerations): its report is overdue
although it was given the release, or it goes on asking and never comes for what waits for it. A device that does not
ask at all is off-line (`service.application.explanation`), which is no sign of an attack.
"""

from datetime import datetime

from protocol.messages import ActionReport, Attack, VersionManifest
from service.application.events import Event, EventType
from service.domain.action import Action
from service.domain.device import Device
from service.domain.errors import JsonValue

ATTACK_REFUSED = "attack-refused"
VERIFICATION_FAILED = "verification-failed"
ATTACK_INDICATED = "attack-indicated"
DEVICE_UNHEARD = "device-unheard"


def refused(action: Action, report: ActionReport, *, release: str, now: datetime) -> Event:
    """Return the event of an update that a device refused, or that it confirmed and does not run.

    Args:
        action: failed.
        report: that said so.
        release: its name.
        now: UTC, aware.
    """
    facts: dict[str, JsonValue] = {
        "attack": report.attack,
        "rule": report.rule,
        "detail": action.detail,
        **_place(action, release),
    }
    return Event(
        EventType.SECURITY, action.device_id, ATTACK_REFUSED if report.attack else VERIFICATION_FAILED, now, facts
    )


def indicated(manifest: VersionManifest, *, now: datetime) -> Event:
    """Return the event of an attack that a device's identity key vouches for."""
    rule, _, detail = manifest.attack_indicator.partition(": ")
    facts: dict[str, JsonValue] = {"attack": manifest.attack, "rule": rule, "detail": detail}
    return Event(EventType.SECURITY, manifest.device_id, ATTACK_INDICATED, now, facts)


def unheard(before: Action, device: Device, *, release: str, now: datetime) -> Event | None:
    """Return the event of a device whose word does not arrive; None if it is merely off-line.

    Args:
        before: the action, timed out just now, as it was.
        device: whose it is.
        release: its name.
        now: UTC, aware.
    """
    seen = device.last_seen_at
    asked = seen is not None and seen > before.progressed_at
    if not before.offered and not asked:
        return None
    rule, wanted = ("ReportOverdue", "its report") if before.offered else ("RequestMissing", "its request for it")
    last = "never" if seen is None else f"last at {seen:%FT%TZ}"
    detail = f"expected {wanted}, found none; the device was heard of {last}"
    facts: dict[str, JsonValue] = {
        "attack": Attack.DROP_REQUEST,
        "rule": rule,
        "detail": detail,
        **_place(before, release),
    }
    return Event(EventType.SECURITY, device.device_id, DEVICE_UNHEARD, now, facts)


def _place(action: Action, release: str) -> dict[str, JsonValue]:
    return {"action_id": action.action_id, "rollout_id": action.rollout_id, "release": release}
