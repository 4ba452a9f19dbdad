"""Why a device is let in or not: the reasons in the order in which it meets them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from pki.revocation import Reason
from protocol.identity import Access, DeviceId, spki_der
from protocol.signing import SoftwareSigner
from service.application.device_identity import admission_of
from service.application.device_repositories import AttestationRecord
from service.application.revocation_repository import RevokedCertificate
from service.domain.attestation import Appraisal, Finding, Status, Verdict, refusal
from service.domain.device import Device

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
CLAIMED = Device(
    device_id=DeviceId("a" * 128),
    group_id="g",
    identity_key=spki_der(SoftwareSigner.generate().public_key),
    idevid_chain="",
    claimed_at=NOW,
    claimed_by="operator",
)
ACTIVE = CLAIMED.certify("1", evidence=b"token", key_sha256="00", not_after=NOW + timedelta(hours=1), at=NOW)


def record(appraisal: Appraisal) -> AttestationRecord:
    return AttestationRecord(1, CLAIMED.device_id, appraisal, since=NOW, last_at=NOW, times=1)


GOOD = record(Appraisal((Finding("os", "listed", "listed", Status.AFFIRMING),), Verdict.ACCEPTED))


def reasons(
    device: Device,
    found: AttestationRecord | None,
    revoked: RevokedCertificate | None = None,
    *,
    issuer_trusted: bool = True,
) -> list[str]:
    admission = admission_of(device, found, revoked=revoked, issuer_trusted=issuer_trusted, now=NOW)
    assert admission.admitted is (admission.access is not None)
    return [str(admission.access), *admission.reasons]


def test_accepted_device_is_let_in_and_says_why() -> None:
    """The one answer without an obstacle."""
    assert reasons(ACTIVE, GOOD) == ["full", "its evidence is as the group's policy demands"]


def test_device_that_never_attested_lacks_everything_in_order() -> None:
    """Attestation, voucher, certificate."""
    assert reasons(CLAIMED, None) == [
        "None",
        "it has never attested",
        "the service keeps no voucher of it: without one it follows no catalog",
        "it has no operational certificate",
    ]


def test_refused_device_keeps_its_older_certificate_to_its_end() -> None:
    """And loses it then."""
    refused = record(refusal("os", expected="a listed os", found="none"))
    since = "attestation refused it since 2026-01-01 12:00:00 UTC: os: expected a listed os, found none"
    assert reasons(ACTIVE, refused) == [
        "full",
        since,
        "its certificate of before is in force until 2026-01-01 13:00:00 UTC",
    ]
    ended = replace(ACTIVE, certificate_not_after=NOW)
    assert reasons(ended, refused) == ["None", since, "its operational certificate ended at 2026-01-01 12:00:00 UTC"]


def test_device_that_booted_what_is_refused_reaches_nothing() -> None:
    """Whatever its certificate says."""
    refused = record(refusal("os", expected="a listed os", found="none"))
    since = "attestation refused it since 2026-01-01 12:00:00 UTC: os: expected a listed os, found none"
    assert reasons(ACTIVE.refuse(), refused) == ["None", since]


def test_certificate_by_a_retired_generation_reaches_nothing() -> None:
    """However long it would be valid."""
    assert reasons(ACTIVE, GOOD, issuer_trusted=False) == [
        "None",
        "its operational certificate is by a generation of the issuing CA that is trusted no longer",
    ]


def test_restricted_device_reaches_the_update_path_and_says_why() -> None:
    """By alarm or by expectation."""
    restricted = replace(ACTIVE, access=Access.UPDATE_ONLY)
    finding = Finding("m4-0/model", "a listed model", "another", Status.WARNING, healable=True)
    for verdict, word in ((Verdict.QUARANTINED, "quarantined it"), (Verdict.UPDATE_ONLY, "lets it update alone")):
        access, reason = reasons(restricted, record(Appraisal((finding,), verdict)))
        assert (access, f"attestation {word} since" in reason) == ("update-only", True)


def test_registry_comes_before_everything_else() -> None:
    """Blocked, suspected, revoked: the first thing to look at is the first reason."""
    revoked = RevokedCertificate("ab", "1f", CLAIMED.device_id, NOW, Reason.KEY_COMPROMISE)
    blocked = ACTIVE.block("lost", NOW).suspect("two boots", NOW)
    found = reasons(blocked, GOOD, revoked)
    assert found[0] == "None"
    assert [reason.split(" since")[0] for reason in found[1:]] == [
        "it is blocked",
        "two devices seem to be it",
        "its birth certificate is revoked",
    ]
    assert reasons(ACTIVE.depart("other", NOW), GOOD)[1].startswith("it belongs to other since")
    assert reasons(ACTIVE.decommission(NOW), GOOD)[1].startswith("it is decommissioned since")
