"""Attestation policies: what they demand and admit, and that appraisal keeps to them."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.evidence import LifeCycle, SoftwareComponent
from protocol.geometry import Slot
from service.domain.attestation import Appraisal, ReferenceValue, Status, Verdict, appraise
from service.domain.attestation_policy import (
    ADMISSIBLE_LIFE_CYCLES,
    AttestationPolicy,
    AttestationPolicyError,
    UnknownSoftware,
    life_cycle_label,
    life_cycle_of,
    release_number,
)
from tests.attesting_device import HONEST, component

NONCE = b"\x2a" * 32
LISTED = {
    part.measurement.hex(): ReferenceValue(
        digest=part.measurement.hex(),
        name=part.version,
        slot_kinds=frozenset({Slot(part.type).kind}),
        hardware_ids=frozenset({Slot(part.type).core.hardware_id}),
        release="factory",
    )
    for part in (component(slot) for slot in Slot)
}
VERDICTS = {
    UnknownSoftware.REFUSE: (Verdict.REFUSED, Status.CONTRAINDICATED),
    UnknownSoftware.QUARANTINE: (Verdict.QUARANTINED, Status.CONTRAINDICATED),
    UnknownSoftware.UPDATE_ONLY: (Verdict.UPDATE_ONLY, Status.WARNING),
}


def appraised(policy: AttestationPolicy, *parts: SoftwareComponent, lifecycle: int = LifeCycle.SECURED) -> Appraisal:
    evidence = replace(HONEST, nonce=NONCE, components=parts or HONEST.components, lifecycle=lifecycle)
    return appraise(evidence, NONCE, policy=policy, reference_values=LISTED)


def with_unknown(slot: Slot) -> list[SoftwareComponent]:
    parts = [component(each) for each in Slot]
    return [replace(part, measurement=b"\x66" * 32) if part.type == slot else part for part in parts]


@pytest.mark.parametrize("unknown", UnknownSoftware)
@pytest.mark.parametrize("slot", [slot for slot in Slot if slot not in {Slot.BOOT_LOADER, Slot.SECURITY_MONITOR}])
def test_policy_decides_about_unknown_images(unknown: UnknownSoftware, slot: Slot) -> None:
    """Refuse, quarantine or update alone, in EAR's tiers."""
    result = appraised(AttestationPolicy(unknown=unknown), *with_unknown(slot))
    assert (result.verdict, result.verdict.status) == VERDICTS[unknown]
    (wrong,) = [finding for finding in result.findings if not finding.accepted]
    assert (wrong.component, wrong.status, wrong.healable) == (slot, VERDICTS[unknown][1], True)


@pytest.mark.parametrize("slot", [Slot.BOOT_LOADER, Slot.SECURITY_MONITOR])
def test_unknown_root_of_the_measurements_always_refuses(slot: Slot) -> None:
    """No update replaces them, and the rest of the evidence rests on their word."""
    result = appraised(AttestationPolicy(unknown=UnknownSoftware.UPDATE_ONLY), *with_unknown(slot))
    assert result.verdict is Verdict.REFUSED


@given(
    st.integers(min_value=0, max_value=0xFFFF), st.sets(st.sampled_from(sorted(ADMISSIBLE_LIFE_CYCLES))), st.booleans()
)
def test_life_cycle_is_admitted_by_the_policy_alone(lifecycle: int, admitted: set[LifeCycle], debug: bool) -> None:  # noqa: FBT001 - drawn
    """The upper byte decides; NON_PSA_DEBUG is the debug capability."""
    policy = AttestationPolicy(life_cycles=frozenset(admitted or {LifeCycle.SECURED}), debug=debug)
    stage = lifecycle & 0xFF00
    expected = stage in policy.life_cycles or (debug and stage == LifeCycle.NON_PSA_DEBUG)
    assert appraised(policy, lifecycle=lifecycle).accepted is expected


NEWER, OLDER = ("1.0.0.1", "1.1", "10"), ("", "1", "1.0", "1.0.0", "0.9.9.9")


@pytest.mark.parametrize("minimum", [*NEWER, *OLDER])
def test_os_version_is_compared_as_a_release_number(minimum: str) -> None:
    """That of the listed image: 1.0.0 here."""
    assert appraised(AttestationPolicy(minimum_os=minimum)).accepted is (minimum in OLDER)


def test_os_without_a_release_number_is_below_every_minimum() -> None:
    """A nightly build is no release."""
    policy = AttestationPolicy(minimum_os="0.1")
    assert [policy.admits_os(version) for version in ("nightly", "", "1.0-rc1", "0.1")] == [False, False, False, True]
    assert AttestationPolicy().admits_os("nightly")


@given(st.lists(st.integers(0, 999), min_size=1, max_size=4), st.lists(st.integers(0, 999), min_size=1, max_size=4))
def test_release_numbers_are_ordered_part_by_part(one: list[int], other: list[int]) -> None:
    """As numbers, missing parts as zeros."""
    numbers = [release_number(".".join(map(str, parts))) for parts in (one, other)]
    padded = [parts + [0] * (4 - len(parts)) for parts in (one, other)]
    assert numbers[0] is not None and numbers[1] is not None  # noqa: PT018 - for the type checker
    assert (numbers[0] < numbers[1]) is (padded[0] < padded[1])


@pytest.mark.parametrize("text", ["", "1.", ".1", "1.2.3.4.5", "v1", "1 ", "1\n", "٣", "1" * 10])
def test_what_is_no_release_number_is_none(text: str) -> None:
    """Digits and dots alone, at most four numbers."""
    assert release_number(text) is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"minimum_os": "new"}, "minimum OS: expected up to four numbers"),
        ({"life_cycles": frozenset()}, "found none"),
        ({"life_cycles": frozenset({LifeCycle.DECOMMISSIONED})}, "found decommissioned"),
        ({"life_cycles": frozenset({LifeCycle.NON_PSA_DEBUG})}, "found non-psa-debug"),
        ({"certificate_lifetime": timedelta(seconds=1)}, "certificate lifetime: expected at least"),
    ],
)
def test_policy_that_is_none_says_what_was_expected(fields: dict[str, object], message: str) -> None:
    """Each rule in its words."""
    with pytest.raises(AttestationPolicyError, match=message):
        AttestationPolicy(**fields)  # type: ignore[arg-type]  # by name


def test_life_cycles_have_labels_and_back() -> None:
    """As operators write them."""
    assert [life_cycle_of(life_cycle_label(each)) for each in LifeCycle] == list(LifeCycle)
    with pytest.raises(AttestationPolicyError, match="found 'SECURED'"):
        life_cycle_of("SECURED")


def test_missing_application_is_healable_and_a_missing_os_is_not() -> None:
    """A device that comes from another catalog has none of this catalog's images."""
    policy = AttestationPolicy(unknown=UnknownSoftware.UPDATE_ONLY)
    parts = [part for part in HONEST.components if part.type != Slot.A7_APPLICATION]
    assert appraised(policy, *parts).verdict is Verdict.UPDATE_ONLY
    parts = [part for part in HONEST.components if part.type != Slot.OS]
    assert appraised(policy, *parts).verdict is Verdict.REFUSED
