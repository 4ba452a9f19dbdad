"""Admission through a change of issuers: by key, not by name, and nothing that was remembered outlives its trust."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from service.application.messaging import NotAdmittedError
from service.gateway.admission import LdevidAdmission
from tests.integration.gateway.gateway_certificates import Authority, CertificateBuilder, Credential, wall_clock
from tests.integration.gateway.gateway_fakes import DeviceRegister, OffsetClock


@pytest.fixture
def builder(tmp_path: Path) -> CertificateBuilder:
    return CertificateBuilder(tmp_path)


@pytest.fixture
def successor(builder: CertificateBuilder) -> Authority:
    """The next generation: same name, same root, another key."""
    return builder.authority("tinyfleet issuing CA", issuer=builder.root)


@pytest.fixture
def admission(builder: CertificateBuilder) -> LdevidAdmission:
    return LdevidAdmission([builder.issuing_ca.certificate], standing=DeviceRegister(), clock=OffsetClock())


def der(credential: Credential) -> bytes:
    return credential.certificate.public_bytes(Encoding.DER)


async def refused(admission: LdevidAdmission, credential: Credential) -> None:
    with pytest.raises(NotAdmittedError, match="issuer: expected an LDevID issuer"):
        await admission.admit(der(credential))


async def test_both_generations_are_admitted_meanwhile(
    admission: LdevidAdmission, builder: CertificateBuilder, successor: Authority
) -> None:
    """The new one as soon as it is trusted, the old one as long as it is."""
    before, after = builder.device("one"), builder.device("two", issuer=successor)
    await admission.admit(der(before))
    await refused(admission, after)
    admission.trust([successor.certificate, builder.issuing_ca.certificate])
    for device in (before, after):
        assert (await admission.admit(der(device))).device_id == device.device_id
    admission.trust([successor.certificate])
    await refused(admission, before)
    assert (await admission.admit(der(after))).not_after > wall_clock()


async def test_impostor_of_the_same_name_is_refused(
    admission: LdevidAdmission, builder: CertificateBuilder, successor: Authority
) -> None:
    """A third key under the name of both."""
    admission.trust([successor.certificate, builder.issuing_ca.certificate])
    impostor = builder.authority("tinyfleet issuing CA")
    await refused(admission, builder.device("one", issuer=impostor))
