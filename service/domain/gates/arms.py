"""Events of devices in two arms, fed to the comparison with a control arm.

A device is in the canary arm while it runs the release by the rollout, and in control while it was not given it. A
core of it is at risk once in each slot, a fixed period of the service's clock, in which it reports, however many
windows that are; and the device counts once: after its first event it is at risk no more, in neither arm, so that
devices which are always in trouble run out in both arms alike.

Of the events of a slot, canaries have had the share ρ of the cores at risk: of the same hour, so an outage, dusk or a
busy day changes nothing. A slot that only one arm was heard in is let go, and whoever had an event in it is at risk as
before: what was compared with nothing uses up no device. Windows say nothing about which events they hold, so given ρ
the factors of `control` are fair, slot by slot, where devices have their events independently.

Silence comes late: a device that was last heard of in a period, and not for `silent_after` since, fell silent then.
It counts by the same test, with ρ the share of the canaries among those that were heard of in that period or later.
While nobody is heard of, in neither arm, nothing is told of anybody; then, and after an outage of the service, devices
have their whole time again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import numpy as np

from protocol.plan import HealthEvent
from service.domain.gates.control import ControlGate
from service.domain.gates.kept import Kept
from service.domain.model_health import Limits
from service.domain.verdict import Figure

LOOKS_FOR_SILENCE = 8  # while a device falls silent
AT_ONCE = datetime.min.replace(tzinfo=UTC)


class Arm(StrEnum):
    """Which devices are compared."""

    CANARY = "canary"  # run the release by the rollout
    CONTROL = "control"  # were not given it


@dataclass(frozen=True, slots=True)
class Tally:
    """What one arm has seen.

    Attributes:
        at_risk: cores, each once in a slot, or devices that could fall silent.
        events: of them.
    """

    at_risk: int = 0
    events: int = 0

    def plus(self, other: "Tally") -> "Tally":
        """Return the sums."""
        return Tally(self.at_risk + other.at_risk, self.events + other.events)


Tallies = Mapping[Arm, Tally]
NONE_YET: Tallies = {Arm.CANARY: Tally(), Arm.CONTROL: Tally()}


@dataclass(frozen=True, slots=True)
class EventGate:
    """Halts where devices that have the release have more events than the others; implements `KeptGate`.

    Attributes:
        events: that it counts.
        limits: from when on a window is an event.
        silent_after: a device that is not heard of for so long is offline.
        weight: of its part of the error budget.
    """

    name: str
    events: frozenset[HealthEvent]
    test: ControlGate
    limits: Limits
    silent_after: timedelta
    weight: float = 1.0

    def seen(self, kept: Kept, arm: Arm, *, is_new: bool, is_event: bool, slot: int) -> Kept:
        """Return what is kept once a window was seen.

        Args:
            kept: until now, `settled`.
            arm: of its device since the core's first window of the slot; the device has had no event.
            is_new: whether it is the core's first of the slot, so that the core is at risk by it.
            is_event: whether the window holds one.
            slot: number of the one in which it came.
        """
        tallies = _tallies(kept["slot"]) if "slot" in kept else NONE_YET
        found = {**tallies, arm: tallies[arm].plus(Tally(int(is_new), int(is_event)))}
        return {**kept, "slot": {"number": slot, **_json(found)}}

    def silent(self, kept: Kept, tallies: Tallies, *, until: datetime) -> Kept:
        """Return what is kept once silence was looked for.

        Args:
            kept: until now.
            tallies: devices that were heard of after the last look's end; events are those that fell silent by `until`.
            until: the end of what was looked at: `silent_after` ago; of the first look, the time of it.
        """
        left = {name: value for name, value in kept.items() if name not in {"look_at", "is_hushed", "hush_ended"}}
        return {**self.weighed(left, tallies), "heard_until": until.isoformat()}

    def hushed(self, kept: Kept, *, at: datetime) -> Kept:
        """Return what is kept while nobody is heard of, in neither arm: it is looked again before anything is weighed.

        Args:
            kept: until now.
            at: of the look, UTC, aware.
        """
        return {**kept, "is_hushed": True, "look_at": (at + self.silent_after / LOOKS_FOR_SILENCE).isoformat()}

    def listening(self, kept: Kept, *, until: datetime) -> Kept:
        """Return what is kept where devices have more time: nothing is looked at until it is over.

        Args:
            kept: until now.
            until: the end of that time, UTC, aware.
        """
        return {**kept, "look_at": until.isoformat()}

    def resumed(self, kept: Kept, *, at: datetime) -> Kept:
        """Return what is kept once somebody is heard of again: from then on devices have their whole time.

        Args:
            kept: until now, hushed.
            at: of the look, UTC, aware.
        """
        ended = {**kept, "is_hushed": False, "hush_ended": at.isoformat()}
        return self.listening(ended, until=at + self.silent_after)

    @staticmethod
    def hush_ended(kept: Kept) -> datetime | None:
        """Return since when somebody is heard of again, UTC, aware; None where nobody was missed since the last end."""
        return datetime.fromisoformat(kept["hush_ended"]) if "hush_ended" in kept else None

    @staticmethod
    def is_hushed(kept: Kept) -> bool:
        """Return whether nobody was heard of at the last look."""
        return bool(kept.get("is_hushed", False))

    def silence_since(self, kept: Kept) -> datetime | None:
        """Return up to when silence was looked for, UTC, aware; None before the first look."""
        return datetime.fromisoformat(kept["heard_until"]) if "heard_until" in kept else None

    def next_look(self, kept: Kept) -> datetime | None:
        """See `KeptGate.next_look`."""
        if HealthEvent.OFFLINE not in self.events:
            return None
        since = self.silence_since(kept)
        if since is None:
            return AT_ONCE
        usual = since + self.silent_after + self.silent_after / LOOKS_FOR_SILENCE
        return max(usual, datetime.fromisoformat(kept["look_at"])) if "look_at" in kept else usual

    def may_halt(self, kept: Kept) -> bool:
        """See `KeptGate.may_halt`: no average is above the largest."""
        return "wealth" in kept and max(kept["wealth"]) > 0

    def log_evidence(self, kept: Kept) -> float:
        """See `KeptGate.log_evidence`."""
        return self.test.log_evidence(np.array(kept["wealth"])) if "wealth" in kept else 0.0

    def finding(self, kept: Kept) -> str:
        """See `KeptGate.finding`."""
        canary, control = (_weighed_so_far(kept)[arm] for arm in Arm)
        kinds = ", ".join(sorted(self.events))
        return (
            f"expected at most {self.test.tolerated:g} times control's rate of {kinds}, found {canary.events} in "
            f"{canary.at_risk} against control's {control.events} in {control.at_risk}"
        )

    def figures(self, kept: Kept) -> Mapping[str, Figure]:
        """See `KeptGate.figures`."""
        found: dict[str, Figure] = {"tolerated": self.test.tolerated}
        gathered = _tallies(kept["slot"]) if "slot" in kept else NONE_YET
        for arm, tally in _weighed_so_far(kept).items():
            found |= {f"{arm}.at_risk": tally.at_risk, f"{arm}.events": tally.events}
            found[f"{arm}.gathered"] = gathered[arm].at_risk
        return found

    def settled(self, kept: Kept, slot: int) -> Kept:
        """Return what is kept in a slot, once the one before was weighed; one without both arms is let go."""
        if "slot" not in kept or kept["slot"]["number"] == slot:
            return kept
        left = {name: value for name, value in kept.items() if name != "slot"}
        return self.weighed(left, _tallies(kept["slot"]))

    def let_go(self, kept: Kept, slot: int) -> int | None:
        """Return the number of the slot before this one where it ends with events that were compared with nothing."""
        if "slot" not in kept or kept["slot"]["number"] == slot:
            return None
        tallies = _tallies(kept["slot"])
        is_alone = not all(tally.at_risk for tally in tallies.values())
        return int(kept["slot"]["number"]) if is_alone and any(tally.events for tally in tallies.values()) else None

    def weighed(self, kept: Kept, tallies: Tallies) -> Kept:
        """Return what is kept once the events of those at risk at the same time were weighed, if both arms had some."""
        canary, control = tallies[Arm.CANARY], tallies[Arm.CONTROL]
        if not canary.at_risk or not control.at_risk:
            return kept
        share = canary.at_risk / (canary.at_risk + control.at_risk)
        wealth = np.array(kept["wealth"]) if "wealth" in kept else self.test.start()
        after = self.test.after(wealth, canary=canary.events, control=control.events, share=share)
        sums = {arm: tally.plus(tallies[arm]) for arm, tally in _weighed_so_far(kept).items()}
        return {**kept, "wealth": after.tolist(), "weighed": _json(sums)}


def _weighed_so_far(kept: Kept) -> Tallies:
    return _tallies(kept["weighed"]) if "weighed" in kept else NONE_YET


def _tallies(found: Mapping[str, Any]) -> Tallies:
    return {arm: Tally(*found[arm]) for arm in Arm}


def _json(tallies: Tallies) -> dict[str, Any]:
    return {str(arm): [tally.at_risk, tally.events] for arm, tally in tallies.items()}
