"""Does a model fit a core, and by how much not?"""

import pytest

from protocol.geometry import HOME_BYTES, SPARE_BYTES, Core, Slot
from tinyml.errors import FitError
from tinyml.fit import CoreBudget, check_fit, core_budget
from tinyml.flatbuffer import ModelFacts
from tinyml.macs import MacCounts

_KIB = 1024
_BUDGET = CoreBudget(
    core="m4-0", tcm_bytes=192 * _KIB, sysram_bytes=64 * _KIB, home_bytes=336 * _KIB, spare_bytes=300 * _KIB
)


def _facts(*operators: str) -> ModelFacts:
    return ModelFacts(inputs=(), outputs=(), operators=operators, macs=MacCounts())


def test_model_that_fits_exactly_is_accepted() -> None:
    """A limit is the most that fits, not the least that does not; a model may keep state."""
    report = check_fit(_facts("CONV_2D", "VAR_HANDLE"), _BUDGET, arena_bytes=192 * _KIB, package_bytes=300 * _KIB)
    assert report.ok
    assert [check.spare for check in report.checks] == [0, 36 * _KIB, 0, 0]
    report.require_fit()


@pytest.mark.parametrize(
    ("arena_bytes", "package_bytes", "operators", "message"),
    [
        (192 * _KIB + 16, 1000, (), r"arena in TCM: expected at most 196,608 bytes, found 196,624, 16 too many"),
        (1000, 340 * _KIB, (), r"package in the home slot: .* 4,096 too many"),
        (1000, 301 * _KIB, (), r"package in the shared spare slot: .* 1,024 too many"),
        (1000, 1000, ("TOPK_V2", "CUSTOM:Mine", "TOPK_V2"), r"TFLM lacks: .* found 2 \(CUSTOM:Mine, TOPK_V2\)"),
    ],
)
def test_model_that_does_not_fit_is_refused_by_how_much(
    arena_bytes: int, package_bytes: int, operators: tuple[str, ...], message: str
) -> None:
    """One thing is wrong, and the error says how far off it is."""
    report = check_fit(_facts(*operators), _BUDGET, arena_bytes=arena_bytes, package_bytes=package_bytes)
    with pytest.raises(FitError, match=message):
        report.require_fit()
    assert not report.ok


def test_two_regions_of_memory_do_not_add_up() -> None:
    """An arena that TCM and SYSRAM hold together fits neither."""
    report = check_fit(_facts(), _BUDGET, arena_bytes=200 * _KIB, package_bytes=1)
    assert report.checks[0].spare == -8 * _KIB


def test_budget_of_a_core_is_that_of_the_mt3620() -> None:
    """Each M4 has its own home slot and both share the spare; the A7 holds no models."""
    for core, slot in ((Core.M4_0, Slot.M4_0_MODEL), (Core.M4_1, Slot.M4_1_MODEL)):
        budget = core_budget(core)
        assert (budget.home_bytes, budget.spare_bytes) == (HOME_BYTES[slot], SPARE_BYTES)
        assert (budget.core, budget.tcm_bytes, budget.sysram_bytes) == (core.value, 192 * _KIB, 64 * _KIB)
    with pytest.raises(FitError, match="holds models, found a7"):
        core_budget(Core.A7)


def test_error_names_every_check_that_fails() -> None:
    """All that is wrong is said at once."""
    report = check_fit(_facts(), _BUDGET, arena_bytes=10**6, package_bytes=10**6)
    with pytest.raises(FitError, match=r"does not fit m4-0: arena .*; package in the home .*; package in the shared"):
        report.require_fit()
