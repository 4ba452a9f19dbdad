"""How far an operational certificate reaches, by its certificate policies."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from protocol.identity import FULL_ACCESS_POLICY, UPDATE_ONLY_POLICY, Access, IdentityError, access_in
from protocol.signing import SoftwareSigner

SIGNER = SoftwareSigner.generate()
ANOTHER = x509.ObjectIdentifier("2.5.29.32.0")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def _certificate(*policies: x509.ObjectIdentifier) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(SIGNER.public_key)
        .serial_number(1)
        .not_valid_before(BEGIN)
        .not_valid_after(BEGIN + timedelta(days=1))
    )
    if policies:
        information = [x509.PolicyInformation(policy, None) for policy in policies]
        builder = builder.add_extension(x509.CertificatePolicies(information), critical=False)
    return builder.sign(SIGNER.private_key, hashes.SHA256())


@pytest.mark.parametrize("access", list(Access))
def test_a_certificate_says_how_far_it_reaches(access: Access) -> None:
    """One policy, one access."""
    assert access_in(_certificate(access.policy)) is access


@pytest.mark.parametrize(
    "policies",
    [(), (ANOTHER,), (FULL_ACCESS_POLICY, UPDATE_ONLY_POLICY), (FULL_ACCESS_POLICY, ANOTHER)],
    ids=["none", "another", "both", "one and another"],
)
def test_a_certificate_that_does_not_say_reaches_nothing(policies: tuple[x509.ObjectIdentifier, ...]) -> None:
    """Denied by default."""
    with pytest.raises(IdentityError, match="certificate policies: expected full or update-only"):
        access_in(_certificate(*policies))
