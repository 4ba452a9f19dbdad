"""Appraisal of attestation evidence: may this device, having booted this, come in, and how far?

Evidence arrives here verified (`protocol.evidence`). Appraisal policy (RFC 9334 §8.5), in this order:
    1. nonce: the claim is SHA-256(nonce ‖ SubjectPublicKeyInfo of the CSR), for the nonce that the device was given;
    2. life cycle: one that the group's policy admits (RFC 9783 §4.3.1);
    3. form of the boot: every component names a slot, each slot once, in the order of the measured boot;
    4. presence: boot loader, security monitor, OS, application, both firmwares are measured; models may be missing;
    5. measurements: each is a reference value for its slot's kind and hardware, and the OS is new enough.
Each step yields findings, good or bad, so that an operator sees everything that is wrong at once.

A finding is healable if an update can put it right: an unknown image, an image of the catalog that is not there, or an
OS below the minimum. Not so for boot loader and security monitor, which no update replaces and on whose word the rest
of the evidence rests. If all that is wrong is healable, the group's policy decides the verdict; anything else that is
wrong refuses.
"""

import functools
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

from protocol.evidence import Evidence, LifeCycle, SoftwareComponent
from protocol.geometry import SYSTEM_SLOTS, ImageKind, Slot
from protocol.identity import Access
from service.domain.attestation_policy import AttestationPolicy, UnknownSoftware

MANDATORY_SLOTS = tuple(slot for slot in Slot if slot.kind is not ImageKind.MODEL)
NONCE = "nonce"  # component of the finding that says whether evidence is fresh
_PLACES = {slot: (slot.kind, slot.core.hardware_id) for slot in Slot}
_UNHEALABLE_SLOTS = frozenset({Slot.BOOT_LOADER, Slot.SECURITY_MONITOR})
_LIFE_CYCLE_MASK = 0xFF00  # RFC 9783 §4.3.1: the lower byte is implementation-defined


class Status(StrEnum):
    """Trustworthiness tier of a finding or result (draft-ietf-rats-ear, `ear.status`)."""

    AFFIRMING = "affirming"
    WARNING = "warning"
    CONTRAINDICATED = "contraindicated"


class Verdict(StrEnum):
    """What becomes of the device."""

    ACCEPTED = "accepted"
    UPDATE_ONLY = "update-only"
    QUARANTINED = "quarantined"
    REFUSED = "refused"

    @property
    def status(self) -> Status:
        """The result's tier in the words of EAR."""
        return _STATUS[self]

    @property
    def access(self) -> Access | None:
        """How far the device's certificate reaches; None if it gets none."""
        return _ACCESS[self]


_SLOTS = MappingProxyType({slot.value: slot for slot in Slot})  # in the order of the measured boot
_LIFE_CYCLES = MappingProxyType({stage.value: stage.name for stage in LifeCycle})
_STATUS = MappingProxyType(
    {
        Verdict.ACCEPTED: Status.AFFIRMING,
        Verdict.UPDATE_ONLY: Status.WARNING,
        Verdict.QUARANTINED: Status.CONTRAINDICATED,
        Verdict.REFUSED: Status.CONTRAINDICATED,
    }
)
_ACCESS = MappingProxyType(
    {
        Verdict.ACCEPTED: Access.FULL,
        Verdict.UPDATE_ONLY: Access.UPDATE_ONLY,
        Verdict.QUARANTINED: Access.UPDATE_ONLY,
        Verdict.REFUSED: None,
    }
)
_VERDICT_ON_UNKNOWN = MappingProxyType(
    {
        UnknownSoftware.REFUSE: Verdict.REFUSED,
        UnknownSoftware.QUARANTINE: Verdict.QUARANTINED,
        UnknownSoftware.UPDATE_ONLY: Verdict.UPDATE_ONLY,
    }
)


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

    @property
    def version(self) -> str:
        """The part of the name after `@`, or an empty string."""
        return self.name.partition("@")[2]

    def fits(self, slot: Slot) -> bool:
        """Say whether the image may run in a slot."""
        kind, hardware_id = _PLACES[slot]
        return kind in self.slot_kinds and hardware_id in self.hardware_ids


@dataclass(frozen=True, slots=True)
class Finding:
    """What was expected of one component and what was found.

    Attributes:
        component: slot name, or `nonce`, `life-cycle`, `boot-order`, `evidence`, `registry`, `certificate key`.
        digest: measured SHA-256, lower-case hex; empty where the finding is about no image.
        healable: whether an update can put it right.
        since: first time in a row with this finding, UTC; None before it is recorded. Two findings are equal
            whatever it is.
    """

    component: str
    expected: str
    found: str
    status: Status
    digest: str = ""
    healable: bool = False
    since: datetime | None = field(default=None, compare=False)

    @property
    def accepted(self) -> bool:
        """Whether found is as expected."""
        return self.status is Status.AFFIRMING


@dataclass(frozen=True, slots=True)
class Appraisal:
    """The attestation result: an EAR-like record (draft-ietf-rats-ear), kept per device.

    Attributes:
        findings: in the order of the policy.
    """

    findings: tuple[Finding, ...]
    verdict: Verdict

    @property
    def accepted(self) -> bool:
        """Whether everything is as expected, so that the device may come in whole."""
        return self.verdict is Verdict.ACCEPTED

    @property
    def is_judged(self) -> bool:
        """Whether fresh evidence was held against the policy; else it was refused before or beside that."""
        return any(finding.component == NONCE and finding.accepted for finding in self.findings)

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is not as expected, for an operator to read; empty when all is."""
        if self.accepted:
            return ()
        wrong = (finding for finding in self.findings if not finding.accepted)
        return tuple(f"{finding.component}: expected {finding.expected}, found {finding.found}" for finding in wrong)


def refusal(component: str, *, expected: str, found: str) -> Appraisal:
    """Return the appraisal of evidence that was refused before its claims could be read."""
    finding = Finding(component, expected=expected, found=found, status=Status.CONTRAINDICATED)
    return Appraisal((finding,), Verdict.REFUSED)


def appraise(
    evidence: Evidence,
    expected_nonce: bytes | None,
    *,
    policy: AttestationPolicy,
    reference_values: Mapping[str, ReferenceValue],
) -> Appraisal:
    """Appraise verified evidence; the steps are those of the module.

    Args:
        evidence: claims whose signature by the device's identity key was verified.
        expected_nonce: what the nonce claim must be, 32 bytes; None if the device has no nonce in force.
        policy: of the device's group.
        reference_values: by digest, at least for the digests that were measured and are listed.
    """
    return Appraiser(reference_values).appraise(evidence, expected_nonce, policy=policy)


class Appraiser:
    """Appraises the evidence of many devices, which mostly booted the same, by the same reference values.

    Args:
        reference_values: as for `appraise`.

    Attributes:
        reference_values: by which it appraises.
    """

    def __init__(self, reference_values: Mapping[str, ReferenceValue]) -> None:
        self.reference_values = reference_values
        self._known: dict[tuple[tuple[SoftwareComponent, ...], int, AttestationPolicy, bool | None], Appraisal] = {}

    @property
    def boots(self) -> int:
        """How many boots it has in mind."""
        return len(self._known)

    def appraise(self, evidence: Evidence, expected_nonce: bytes | None, *, policy: AttestationPolicy) -> Appraisal:
        """Appraise one device's evidence, each boot that was shown once; see `appraise`."""
        is_fresh = None if expected_nonce is None else hmac.compare_digest(evidence.nonce, expected_nonce)
        shown = (evidence.components, evidence.lifecycle, policy, is_fresh)
        found = self._known.get(shown)
        if found is None:
            findings = self._check(evidence, policy, is_fresh=is_fresh)
            found = self._known[shown] = Appraisal(findings, _verdict(findings, policy))
        return found

    def _check(self, evidence: Evidence, policy: AttestationPolicy, *, is_fresh: bool | None) -> tuple[Finding, ...]:
        components = evidence.components
        return (
            _check_nonce(is_fresh=is_fresh),
            _check_life_cycle(evidence.lifecycle, policy),
            _check_order(tuple(component.type for component in components)),
            *_check_presence(components, policy),
            *(_check_measurement(component, self.reference_values, policy) for component in components),
        )


def _verdict(findings: Sequence[Finding], policy: AttestationPolicy) -> Verdict:
    wrong = [finding for finding in findings if not finding.accepted]
    if not wrong:
        return Verdict.ACCEPTED
    return _VERDICT_ON_UNKNOWN[policy.unknown] if all(finding.healable for finding in wrong) else Verdict.REFUSED


def _plain(component: str, *, expected: str, found: str, accepted: bool) -> Finding:
    """Return a finding that no update can put right."""
    return Finding(component, expected, found, Status.AFFIRMING if accepted else Status.CONTRAINDICATED)


def _check_nonce(*, is_fresh: bool | None) -> Finding:
    # Step 1: nonce.
    if is_fresh is None:
        return _plain(NONCE, expected="a nonce that is in force and unused", found="none", accepted=False)
    wording = "that value" if is_fresh else "another value"
    return _plain(NONCE, expected="the service's nonce bound to the key of the CSR", found=wording, accepted=is_fresh)


def _check_life_cycle(found: int, policy: AttestationPolicy) -> Finding:
    # Step 2: life cycle.
    stage = found & _LIFE_CYCLE_MASK
    admitted = policy.admitted_life_cycles
    expected = " or ".join(life_cycle.name for life_cycle in admitted)
    return _plain("life-cycle", expected=expected, found=life_cycle_name(found), accepted=stage in admitted)


def life_cycle_name(claim: int) -> str:
    """Return the name of a life cycle claim; its upper byte decides."""
    stage = claim & _LIFE_CYCLE_MASK
    return _LIFE_CYCLES[stage] if stage in _LIFE_CYCLES else f"0x{claim & 0xFFFF:04x}"


def _check_order(names: tuple[str, ...]) -> Finding:
    # Step 3: form of the boot.
    in_order = tuple(name for name in _SLOTS if name in names)
    return _plain(
        "boot-order",
        expected=" → ".join(in_order) or "the slots of the MT3620",
        found=" → ".join(name[:32] for name in names[: 2 * len(_SLOTS)]),
        accepted=names == in_order,
    )


def _check_presence(components: Sequence[SoftwareComponent], policy: AttestationPolicy) -> list[Finding]:
    # Step 4: presence.
    measured = {component.type for component in components}
    return [_missing(slot, policy) for slot in MANDATORY_SLOTS if slot.value not in measured]


def _missing(slot: Slot, policy: AttestationPolicy) -> Finding:
    expected, found = "a measured image", "no measurement"
    if slot in SYSTEM_SLOTS:
        return _plain(slot.value, expected=expected, found=found, accepted=False)
    # A device that comes from another catalog has none of this catalog's images yet; its OS can take them.
    return Finding(slot.value, expected, found, _VERDICT_ON_UNKNOWN[policy.unknown].status, healable=True)


def _check_measurement(
    component: SoftwareComponent, reference_values: Mapping[str, ReferenceValue], policy: AttestationPolicy
) -> Finding:
    # Step 5: measurements.
    digest = component.measurement.hex()
    slot = _SLOTS.get(component.type)
    wrong, good = Status.CONTRAINDICATED, Status.AFFIRMING
    if slot is None:
        return Finding(component.type[:32], "a slot of the MT3620", "no such slot", wrong, digest)
    expected = _expected(slot, policy.minimum_os)
    value = reference_values.get(digest)
    if value is None:
        found = f"{component.version} ({digest[:12]}…), which no release lists"
        return _unknown(slot, policy, expected=expected, found=found, digest=digest)
    if not value.fits(slot):
        listed = f"{'/'.join(sorted(value.slot_kinds))} for {'/'.join(sorted(value.hardware_ids))}"
        return Finding(slot.value, expected, f"{value.name}, a {listed}", wrong, digest)
    found = f"{value.name} of {value.release}"
    if slot is Slot.OS and not policy.admits_os(value.version):
        return _unknown(slot, policy, expected=expected, found=found, digest=digest)
    return Finding(slot.value, expected, found, good, digest)


@functools.lru_cache
def _expected(slot: Slot, minimum_os: str) -> str:
    newer = f", version {minimum_os} or newer" if slot is Slot.OS and minimum_os else ""
    kind, hardware_id = _PLACES[slot]
    return f"a listed {kind} for {hardware_id}{newer}"


def _unknown(slot: Slot, policy: AttestationPolicy, *, expected: str, found: str, digest: str) -> Finding:
    healable = slot not in _UNHEALABLE_SLOTS
    status = _VERDICT_ON_UNKNOWN[policy.unknown].status if healable else Status.CONTRAINDICATED
    return Finding(slot.value, expected, found, status, digest, healable=healable)
