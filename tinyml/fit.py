"""Does a model fit a core? Each check says its limit, what was found and what is left.

Checks:
    1. arena: it lies in one region of memory, TCM or SYSRAM, which are not contiguous;
    2. package against the home slot of the core's model;
    3. package against the spare slot, shared by all cores, that it runs from on trial;
    4. operators that TFLM lacks.
Not checked here: whether the model answers well (`tinyml.golden`) and in time (`tinyml.latency`).
"""

from collections.abc import Iterable
from dataclasses import dataclass

from typing_extensions import override

from protocol.geometry import HOME_BYTES, SPARE_BYTES, SYSRAM_BYTES, TCM_BYTES, Core, ImageKind, slot_for
from tinyml.errors import FitError
from tinyml.flatbuffer import ModelFacts
from tinyml.operators import missing_operators


@dataclass(frozen=True, slots=True)
class CoreBudget:
    """What a core has for a model, in bytes.

    Attributes:
        core: name of the core, for messages.
        tcm_bytes: tightly coupled memory.
        sysram_bytes: system RAM.
        home_bytes: home slot of the core's model in flash.
        spare_bytes: the spare slot that all cores share.
    """

    core: str
    tcm_bytes: int
    sysram_bytes: int
    home_bytes: int
    spare_bytes: int


@dataclass(frozen=True, slots=True)
class FitCheck:
    """One check.

    Attributes:
        name: what is checked.
        limit: the most that fits.
        found: what the model needs.
        unit: bytes or operators.
        detail: names, where a number does not say enough.
    """

    name: str
    limit: int
    found: int
    unit: str = "bytes"
    detail: str = ""

    @property
    def spare(self) -> int:
        """What is left; negative: short by so much."""
        return self.limit - self.found

    @property
    def ok(self) -> bool:
        """Whether it fits."""
        return self.spare >= 0

    @override
    def __str__(self) -> str:
        detail = f" ({self.detail})" if self.detail else ""
        outcome = f"{self.spare:,} left" if self.ok else f"{-self.spare:,} too many"
        return f"{self.name}: expected at most {self.limit:,} {self.unit}, found {self.found:,}{detail}, {outcome}"


@dataclass(frozen=True, slots=True)
class FitReport:
    """All checks of a model against a core."""

    core: str
    checks: tuple[FitCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether the model fits."""
        return all(check.ok for check in self.checks)

    def require_fit(self) -> None:
        """Refuse a model that does not fit.

        Raises:
            FitError: says every check that fails and by how much.
        """
        if not self.ok:
            failures = "; ".join(str(check) for check in self.checks if not check.ok)
            raise FitError(f"the model does not fit {self.core}: {failures}")


def core_budget(core: Core) -> CoreBudget:
    """Return what a core of the MT3620 has for a model.

    Raises:
        FitError: the core holds no models.
    """
    slot = slot_for(core, ImageKind.MODEL)
    if slot is None:
        raise FitError(f"core: expected one that holds models, found {core}")
    return CoreBudget(core.value, TCM_BYTES, SYSRAM_BYTES, HOME_BYTES[slot], SPARE_BYTES)


def check_fit(facts: ModelFacts, budget: CoreBudget, *, arena_bytes: int, package_bytes: int) -> FitReport:
    """Check a model against what a core has.

    Args:
        facts: what the model says of itself.
        budget: what the core has.
        arena_bytes: smallest arena of the model, or the one that its card asks for.
        package_bytes: length of the whole image package, signature included.
    """
    return FitReport(
        budget.core,
        (
            _arena_check(budget, arena_bytes),
            FitCheck("package in the home slot", budget.home_bytes, package_bytes),
            FitCheck("package in the shared spare slot", budget.spare_bytes, package_bytes),
            _operator_check("operators that TFLM lacks", missing_operators(facts.operators)),
        ),
    )


def _arena_check(budget: CoreBudget, arena_bytes: int) -> FitCheck:
    regions = sorted([(budget.sysram_bytes, "SYSRAM"), (budget.tcm_bytes, "TCM")], reverse=True)
    limit, region = regions[0]
    return FitCheck(f"arena in {region}", limit, arena_bytes)


def _operator_check(name: str, operators: Iterable[str]) -> FitCheck:
    found = sorted(set(operators))
    return FitCheck(name, 0, len(found), "operators", ", ".join(found))
