"""What a device group demands of its devices' evidence, and what becomes of those whose software is not as it must be.

The default demands what every device must show: the SECURED life cycle and known images. A policy can demand more (a
minimum OS, a shorter certificate) or admit more (an earlier life cycle, the debug capability). Software that is
unknown or too old can be put right by an update, so a policy may let such a device reach the update path; nothing
else that is wrong with evidence can.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from protocol.evidence import LifeCycle
from service.domain.errors import InvalidError

# In all others the root of trust is open to others, gone or unheard of, so that evidence proves nothing
# (RFC 9783 §4.3.1); NON_PSA_DEBUG opens the application's side alone and is the debug capability.
ADMISSIBLE_LIFE_CYCLES = frozenset({LifeCycle.ASSEMBLY_AND_TEST, LifeCycle.PROVISIONING, LifeCycle.SECURED})
SHORTEST_CERTIFICATE = timedelta(minutes=5)
_RELEASE_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,9}){0,3}\Z", re.ASCII)


class AttestationPolicyError(InvalidError):
    """The policy demands what no device can show, or admits what no policy may."""


class UnknownSoftware(StrEnum):
    """What to do with a device whose images are unknown or whose OS is too old."""

    REFUSE = "refuse"
    QUARANTINE = "quarantine"  # it may update, and an alarm says so
    UPDATE_ONLY = "update-only"  # it may update, which is the expected case


@dataclass(frozen=True, slots=True)
class AttestationPolicy:
    """The policy of a device group; appraisal is in `service.domain.attestation`.

    Attributes:
        minimum_os: lowest release number of the OS image, e.g. `1.2`; empty for any.
        life_cycles: admitted security life cycles.
        debug: whether the debug capability (NON_PSA_DEBUG) is admitted.
        certificate_lifetime: longest lifetime of an LDevID; None for the service's setting, which is never exceeded.
        unknown: what to do with unknown images or an OS below the minimum.
    """

    minimum_os: str = ""
    life_cycles: frozenset[LifeCycle] = frozenset({LifeCycle.SECURED})
    debug: bool = False
    certificate_lifetime: timedelta | None = None
    unknown: UnknownSoftware = UnknownSoftware.REFUSE

    def __post_init__(self) -> None:
        if self.minimum_os and release_number(self.minimum_os) is None:
            raise AttestationPolicyError(
                f"minimum OS: expected up to four numbers as in 1.2, found {self.minimum_os[:40]!r}"
            )
        if not self.life_cycles or self.life_cycles - ADMISSIBLE_LIFE_CYCLES:
            raise AttestationPolicyError(
                f"life cycles: expected some of {_names(ADMISSIBLE_LIFE_CYCLES)}, found {_names(self.life_cycles)}"
            )
        if self.certificate_lifetime is not None and self.certificate_lifetime < SHORTEST_CERTIFICATE:
            raise AttestationPolicyError(
                f"certificate lifetime: expected at least {SHORTEST_CERTIFICATE}, found {self.certificate_lifetime}"
            )

    @property
    def admitted_life_cycles(self) -> tuple[LifeCycle, ...]:
        """Life cycles that are admitted, the debug capability included, lowest first."""
        debug = {LifeCycle.NON_PSA_DEBUG} if self.debug else set()
        return tuple(sorted(self.life_cycles | debug))

    def admits_os(self, version: str) -> bool:
        """Say whether an OS image of this version is new enough; one that is no release number is not."""
        if not self.minimum_os:
            return True
        found, lowest = release_number(version), release_number(self.minimum_os)
        return found is not None and lowest is not None and found >= lowest


def life_cycle_of(label: str) -> LifeCycle:
    """Return the life cycle of a label such as `assembly-and-test`.

    Raises:
        AttestationPolicyError: there is none.
    """
    found = next((life_cycle for life_cycle in LifeCycle if life_cycle_label(life_cycle) == label), None)
    if found is None:
        expected = ", ".join(life_cycle_label(life_cycle) for life_cycle in sorted(ADMISSIBLE_LIFE_CYCLES))
        raise AttestationPolicyError(f"life cycle: expected one of {expected}, found {label[:40]!r}")
    return found


def life_cycle_label(life_cycle: LifeCycle) -> str:
    """Return how people write a life cycle."""
    return life_cycle.name.lower().replace("_", "-")


def release_number(text: str) -> tuple[int, ...] | None:
    """Return a release number to compare, `1.2` and `1.2.0` alike; None if the text is none."""
    if not _RELEASE_NUMBER.match(text):
        return None
    numbers = [int(part) for part in text.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _names(life_cycles: frozenset[LifeCycle]) -> str:
    return ", ".join(life_cycle_label(life_cycle) for life_cycle in sorted(life_cycles)) or "none"
