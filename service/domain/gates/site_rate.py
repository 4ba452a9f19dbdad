"""Gates on the share of devices that fail, where devices of one site may fail together.

`failure_rate` takes every device for a draw of its own. Where a site's devices share a network, a power supply or a
batch, they are not, and a healthy release is halted more often than α says. Here a site is one draw:

    Xᵢ = failed among the first m devices of site i / m,    0 ≤ Xᵢ ≤ 1,

with sites in the order in which the first device of each was given the release. Halt (H₀: E[Xᵢ | sites before] ≤ p₀):

    E = average over λ and m of  Π (1 + λ (Xᵢ − p₀)),    0 < λ < 1/p₀,    halt at E ≥ 1/α.

Each factor is at least 0 and at most 1 in expectation, whatever binds the devices of a site to one another. A device
without a result, or not begun, counts as a success: what is seen is at most what the same sites will have come to, so
delays only delay a halt. Pass (H₀: E[Xᵢ | sites before] ≥ p₁) is the mirror, Π (1 + λ (p₁ − Xᵢ)) with
0 < λ < 1/(1 − p₁), and there all of these count as failures.

Why the first m: how many devices a site will have is not known when it begins, and a rollout reaches most sites by a
device or two at first. One device a site is one test of a proportion; the first 64 say most where sites start whole.

Source: Waudby-Smith & Ramdas, Estimating means of bounded random variables by betting (JRSS B 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from service.domain.gates.beta import Floats
from service.domain.gates.failure_rate import InvalidGateError, check_rates
from service.domain.gates.kept import Kept

DEPTHS = (1, 4, 16, 64)  # m: first devices of a site that a component looks at
MOST_DEVICES = DEPTHS[-1]  # of a site that count; those that come later say nothing more
STAKES = np.geomspace(0.01, 0.95, 10)  # λ, as parts of the largest
COMPONENTS = len(DEPTHS) * STAKES.size


@dataclass(frozen=True, slots=True)
class Result:
    """What has become of a device that was given the release.

    Attributes:
        failed: for what the gate counts; for good, whatever a later attempt says.
        cleared: it can no longer fail for that.
    """

    failed: bool = False
    cleared: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """What is known of a site.

    Attributes:
        failed: failures among its first 1, 4, 16 and 64 devices.
        cleared: devices of these that can no longer fail.
    """

    failed: tuple[int, ...]
    cleared: tuple[int, ...]

    @property
    def is_struck(self) -> bool:
        """Whether a device of it has failed."""
        return self.failed[-1] > 0

    @classmethod
    def of(cls, results: Sequence[Result]) -> "Site":
        """Return what results come to.

        Args:
            results: of the site's devices, in the order in which they were given the release.
        """
        return cls(
            tuple(sum(result.failed for result in results[:depth]) for depth in DEPTHS),
            tuple(sum(result.cleared for result in results[:depth]) for depth in DEPTHS),
        )


@dataclass(frozen=True, slots=True)
class SiteEvidence:
    """The evidence of a gate, by component: logarithms, depth by depth.

    Attributes:
        halt: of the test that halts.
        passing: of its mirror.
        sites: that have begun.
        struck: of these, the ones where a device has failed.
    """

    halt: Floats = field(default_factory=lambda: np.zeros(COMPONENTS))
    passing: Floats = field(default_factory=lambda: np.zeros(COMPONENTS))
    sites: int = 0
    struck: int = 0

    @classmethod
    def of(cls, kept: Kept) -> "SiteEvidence":
        """Return what `kept` has stored.

        Raises:
            InvalidGateError: it has more or fewer components.
        """
        if not kept:
            return cls()
        for name in ("halt", "passing"):
            if len(kept[name]) != COMPONENTS:
                raise InvalidGateError(f"evidence by site: expected {COMPONENTS} components, found {len(kept[name])}")
        return cls(np.array(kept["halt"]), np.array(kept["passing"]), kept["sites"], kept["struck"])

    @property
    def kept(self) -> Kept:
        """Return it as it is stored with a rollout."""
        return {
            "halt": self.halt.tolist(),
            "passing": self.passing.tolist(),
            "sites": self.sites,
            "struck": self.struck,
        }

    @property
    def log_halt(self) -> float:
        """Return ln E: of the average over the components."""
        return _log_mean(self.halt)

    @property
    def log_pass(self) -> float:
        """Return ln E′, as `log_halt`."""
        return _log_mean(self.passing)


@dataclass(frozen=True, slots=True)
class SiteRateGate:
    """Which failure rates are acceptable, judged by site.

    Attributes:
        acceptable: p₀; a release that fails no more often is halted with probability α at most.
        worst: p₁; one that fails as often or more passes with probability β at most.
    """

    acceptable: float = 0.02
    worst: float = 0.05

    def __post_init__(self) -> None:
        check_rates(self.acceptable, self.worst)

    def after(self, evidence: SiteEvidence, before: Site | None, site: Site) -> SiteEvidence:
        """Return the evidence once one site has changed; the other sites need not be known.

        Args:
            evidence: with the site as it was.
            before: None where the site is new.
            site: as it is now.
        """
        halt, passing = self._log_factors(site)
        sites, struck = 1, int(site.is_struck)
        if before is not None:
            old_halt, old_passing = self._log_factors(before)
            halt, passing = halt - old_halt, passing - old_passing
            sites, struck = 0, struck - int(before.is_struck)
        return SiteEvidence(
            evidence.halt + halt, evidence.passing + passing, evidence.sites + sites, evidence.struck + struck
        )

    def of_devices(self, failed: int, cleared: int, started: int) -> SiteEvidence:
        """Return the evidence of devices that are each a site of their own.

        Args:
            failed: devices that have failed.
            cleared: devices that can no longer fail.
            started: all that were given the release.
        """
        results = (
            (Result(failed=True), failed),
            (Result(cleared=True), cleared),
            (Result(), started - failed - cleared),
        )
        factors = [(self._log_factors(Site.of([result])), count) for result, count in results]
        halt = sum((count * of_halt for (of_halt, _), count in factors), np.zeros(COMPONENTS))
        passing = sum((count * of_pass for (_, of_pass), count in factors), np.zeros(COMPONENTS))
        return SiteEvidence(halt, passing, started, failed)

    def log_halt_factors(self, failed: Floats) -> Floats:
        """Return ln of a site's factors.

        Args:
            failed: among the first devices, one number for each of `DEPTHS` in the last place.

        Returns:
            An array with the stakes in one more place.
        """
        excess = failed / np.array(DEPTHS) - self.acceptable
        return np.asarray(np.log1p(excess[..., np.newaxis] * (STAKES / self.acceptable)), float)

    def log_pass_factors(self, cleared: Floats) -> Floats:
        """Return ln of the mirror's factors, as `log_halt_factors`, of devices that can no longer fail."""
        margin = self.worst - (1 - cleared / np.array(DEPTHS))
        return np.asarray(np.log1p(margin[..., np.newaxis] * (STAKES / (1 - self.worst))), float)

    def _log_factors(self, site: Site) -> tuple[Floats, Floats]:
        halt = self.log_halt_factors(np.array(site.failed, float))
        return halt.ravel(), self.log_pass_factors(np.array(site.cleared, float)).ravel()


def _log_mean(values: Floats) -> float:
    return float(np.logaddexp.reduce(values) - np.log(values.size))
