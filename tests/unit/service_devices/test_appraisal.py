"""The appraisal policy: everything that is wrong is found, and nothing that is right."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.evidence import LifeCycle, SoftwareComponent
from protocol.geometry import Slot
from service.domain.attestation import Appraisal, ReferenceValue, appraise
from service.domain.attestation_policy import AttestationPolicy
from tests.attesting_device import HONEST, component

MODELS = (component(Slot.M4_0_MODEL), component(Slot.M4_1_MODEL))
FULL = (*HONEST.components, *MODELS)
LISTED = {
    part.measurement.hex(): ReferenceValue(
        digest=part.measurement.hex(),
        name=part.version,
        slot_kinds=frozenset({Slot(part.type).kind}),
        hardware_ids=frozenset({Slot(part.type).core.hardware_id}),
        release="factory",
    )
    for part in FULL
}
NONCE = b"\x2a" * 32


def appraised(
    *components: SoftwareComponent, lifecycle: int = LifeCycle.SECURED, nonce: bytes | None = NONCE
) -> Appraisal:
    evidence = replace(HONEST, nonce=NONCE, components=components, lifecycle=lifecycle)
    return appraise(evidence, nonce, policy=AttestationPolicy(), reference_values=LISTED)


@pytest.mark.parametrize("models", [(), MODELS[:1], MODELS[1:], MODELS])
def test_listed_boot_is_accepted_with_and_without_models(models: tuple[SoftwareComponent, ...]) -> None:
    """A device that has no model yet attests, too."""
    result = appraised(*HONEST.components, *models)
    assert result.accepted
    assert result.reasons == ()


@given(st.lists(st.sampled_from(FULL), max_size=12))
def test_only_a_whole_boot_in_order_is_accepted(components: list[SoftwareComponent]) -> None:
    """Any other choice, order or repetition of listed images is refused."""
    whole = [part for part in FULL if part in components]
    expected = components == whole and set(HONEST.components) <= set(components)
    assert appraised(*components).accepted is expected


@given(st.integers(min_value=0, max_value=0xFFFF))
def test_only_the_secured_life_cycle_is_accepted(lifecycle: int) -> None:
    """The upper byte decides (RFC 9783 §4.3.1)."""
    assert appraised(*FULL, lifecycle=lifecycle).accepted is (lifecycle & 0xFF00 == LifeCycle.SECURED)


@pytest.mark.parametrize("nonce", [None, b"\x00" * 32])
def test_other_nonce_is_refused(nonce: bytes | None) -> None:
    """None in force, or another one than the evidence is bound to."""
    result = appraised(*FULL, nonce=nonce)
    assert [finding.component for finding in result.findings if not finding.accepted] == ["nonce"]


@pytest.mark.parametrize("index", range(len(FULL)))
def test_each_component_is_measured(index: int) -> None:
    """One unlisted image anywhere is found and named."""
    spoiled = replace(FULL[index], measurement=b"\x66" * 32)
    result = appraised(*FULL[:index], spoiled, *FULL[index + 1 :])
    assert [finding.component for finding in result.findings if not finding.accepted] == [FULL[index].type]
    assert "no release lists" in result.reasons[0]


@pytest.mark.parametrize(("slot", "other"), [(Slot.M4_0_MODEL, Slot.M4_1_MODEL), (Slot.OS, Slot.A7_APPLICATION)])
def test_listed_image_in_a_wrong_slot_is_refused(slot: Slot, other: Slot) -> None:
    """An image counts only on the hardware and for the kind that it is listed for."""
    moved = [replace(part, measurement=component(other).measurement) if part.type == slot else part for part in FULL]
    result = appraised(*moved)
    assert [finding.component for finding in result.findings if not finding.accepted] == [slot]
