"""Appraisal of attestation evidence: may this device, having booted this, come in?

Evidence arrives here verified (`protocol.evidence`). Appraisal policy (RFC 9334 §8.5), in this order:
    1. nonce: the claim is SHA-256(nonce ‖ SubjectPublicKeyInfo of the CSR), for the nonce that the device was given;
    2. life cycle: SECURED (RFC 9783 §4.3.1);
    3. form of the boot: every component names a slot, each slot once, in the order of the measured boot;
    4. presence: boot loader, security monitor, OS, application, both firmwares are measured; models may be missing;
    5. measurements: each is a reference value for its slot's kind and hardware.
Each step yields findings, refused or not, so that an operator sees everything that is wrong at once.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.evidence import Evidence, LifeCycle, SoftwareComponent
from protocol.geometry import ImageKind, Slot

MANDATORY_SLOTS = frozenset(slot for slot in Slot if slot.kind is not ImageKind.MODEL)
_LIFE_CYCLE_MASK = 0xFF00  # RFC 9783 §4.3.1: the lower byte is implementation-defined


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """What operator-signed metadata says of one image: a device may run it.

    Attributes:
        digest: SHA-256 of the image package, lower-case hex.
        name: `name@version`.
        slot_kinds: what the image is.
        hardware_ids: what it may run on.
        release: name of the newest release that lists it.
    """

    digest: str
    name: str
    slot_kinds: frozenset[ImageKind]
    hardware_ids: frozenset[str]
    release: str

    def fits(self, slot: Slot) -> bool:
        """Say whether the image may run in a slot."""
        return slot.kind in self.slot_kinds and slot.core.hardware_id in self.hardware_ids


@dataclass(frozen=True, slots=True)
class Finding:
    """What was expected of one component and what was found.

    Attributes:
        component: slot name, or `nonce`, `life-cycle`, `boot-order`.
        accepted: whether found is as expected.
        digest: measured SHA-256, lower-case hex; empty where the finding is about no image.
    """

    component: str
    expected: str
    found: str
    accepted: bool
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Appraisal:
    """The attestation result: an EAR-like record (draft-ietf-rats-ear), kept per device.

    Attributes:
        findings: in the order of the policy.
    """

    findings: tuple[Finding, ...]

    @property
    def accepted(self) -> bool:
        """Whether the device may come in."""
        return all(finding.accepted for finding in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it may not, for an operator to read; empty when it may."""
        refused = (finding for finding in self.findings if not finding.accepted)
        return tuple(f"{finding.component}: expected {finding.expected}, found {finding.found}" for finding in refused)


def refusal(component: str, *, expected: str, found: str) -> Appraisal:
    """Return the appraisal of evidence that was refused before its claims could be read."""
    return Appraisal((Finding(component, expected=expected, found=found, accepted=False),))


def appraise(
    evidence: Evidence, expected_nonce: bytes | None, *, reference_values: Mapping[str, ReferenceValue]
) -> Appraisal:
    """Appraise verified evidence; the steps are those of the module.

    Args:
        evidence: claims whose signature by the device's identity key was verified.
        expected_nonce: what the nonce claim must be, 32 bytes; None if the device has no nonce in force.
        reference_values: by digest, at least for the digests that were measured and are listed.
    """
    form = _check_order(evidence.components)
    return Appraisal(
        (
            _check_nonce(evidence.nonce, expected_nonce),
            _check_life_cycle(evidence.lifecycle),
            form,
            *_check_presence(evidence.components),
            *(_check_measurement(component, reference_values) for component in evidence.components),
        )
    )


def _check_nonce(found: bytes, expected: bytes | None) -> Finding:
    # Step 1: nonce.
    if expected is None:
        return Finding("nonce", "a nonce that is in force and unused", "none", accepted=False)
    fresh = hmac.compare_digest(found, expected)
    wording = "that value" if fresh else "another value"
    return Finding("nonce", "the service's nonce bound to the key of the CSR", wording, accepted=fresh)


def _check_life_cycle(found: int) -> Finding:
    # Step 2: life cycle.
    stage = found & _LIFE_CYCLE_MASK
    name = LifeCycle(stage).name if stage in set(LifeCycle) else f"0x{found & 0xFFFF:04x}"
    return Finding("life-cycle", LifeCycle.SECURED.name, name, accepted=stage == LifeCycle.SECURED)


def _check_order(components: Sequence[SoftwareComponent]) -> Finding:
    # Step 3: form of the boot.
    names = [component.type for component in components]
    boot_order = [slot.value for slot in Slot]
    in_order = [name for name in boot_order if name in names]
    return Finding(
        "boot-order",
        expected=" → ".join(in_order) or "the slots of the MT3620",
        found=" → ".join(name[:32] for name in names[: 2 * len(boot_order)]),
        accepted=names == in_order,
    )


def _check_presence(components: Sequence[SoftwareComponent]) -> list[Finding]:
    # Step 4: presence.
    measured = {component.type for component in components}
    missing = (slot for slot in Slot if slot in MANDATORY_SLOTS and slot.value not in measured)
    return [Finding(slot.value, "a measured image", "no measurement", accepted=False) for slot in missing]


def _check_measurement(component: SoftwareComponent, reference_values: Mapping[str, ReferenceValue]) -> Finding:
    # Step 5: measurements.
    digest = component.measurement.hex()
    slot = next((slot for slot in Slot if slot.value == component.type), None)
    if slot is None:
        return Finding(component.type[:32], "a slot of the MT3620", "no such slot", accepted=False, digest=digest)
    expected = f"a listed {slot.kind} for {slot.core.hardware_id}"
    found = f"{component.version} ({digest[:12]}…)"
    value = reference_values.get(digest)
    if value is None:
        return Finding(slot.value, expected, f"{found}, which no release lists", accepted=False, digest=digest)
    if not value.fits(slot):
        listed = f"{'/'.join(sorted(value.slot_kinds))} for {'/'.join(sorted(value.hardware_ids))}"
        return Finding(slot.value, expected, f"{value.name}, a {listed}", accepted=False, digest=digest)
    return Finding(slot.value, expected, f"{value.name} of {value.release}", accepted=True, digest=digest)
