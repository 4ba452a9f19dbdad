"""Every certificate that an authority issues passes pkilint's checks of RFC 5280, alone and against its issuer."""

from collections.abc import Iterable, Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pkilint import document, loader, pkix, validation  # type: ignore[import-untyped]
from pkilint.pkix import algorithm, certificate, extension, key, name  # type: ignore[import-untyped]
from pkilint.pkix.certificate import certificate_extension, certificate_key  # type: ignore[import-untyped]
from pkilint.validation import ValidationFindingSeverity  # type: ignore[import-untyped]
from pyasn1_alt_modules import rfc5280  # type: ignore[import-untyped]

from tests.interop.every_certificate import Issued, every_certificate

WAIVED = {
    # A URN is a URI (RFC 3986 §1.1.2, RFC 8141), but the finding comes from a list of URL schemes that lacks `urn`.
    "pkix.invalid_uri_syntax": "urn:tinyfleet:",
    # One label is a domain name (RFC 1034 §3.5; RFC 6761 §6.3 names localhost); the finding wants two.
    "pkix.invalid_domain_name_syntax": "localhost",
}
PUBLISHED = every_certificate(publish_url="http://fleet.example:8444")
UNPUBLISHED = every_certificate()
ISSUED = [(name, issued) for name, issued in PUBLISHED.items() if issued.above]
CASES = [*PUBLISHED.items(), *((f"{name} unpublished", issued) for name, issued in UNPUBLISHED.items())]


def _findings(results: Iterable[validation.ValidationResult]) -> Iterator[tuple[str, str]]:
    """The code and message of each finding that is worse than information."""
    for result in results:
        for description in result.finding_descriptions:
            if description.finding.severity <= ValidationFindingSeverity.NOTICE:  # the lower, the worse
                yield description.finding.code, f"{description.message} at {result.node.path}"


def _is_waived(code: str, message: str) -> bool:
    return code in WAIVED and WAIVED[code] in message


def _load(
    subject: x509.Certificate, role: str, together: dict[str, document.Document] | None = None
) -> certificate.RFC5280Certificate:
    return loader.load_certificate(subject.public_bytes(Encoding.DER), role, role, together)


@pytest.mark.parametrize("issued", [issued for _, issued in CASES], ids=[name for name, _ in CASES])
def test_certificate_has_no_finding_but_the_waived(issued: Issued) -> None:
    """ASN.1, extensions, names, validity, key."""
    validator = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    found = list(_findings(validator.validate(_load(issued.certificate, "certificate").root)))
    assert [finding for finding in found if not _is_waived(*finding)] == []


@pytest.mark.parametrize("issued", [issued for _, issued in ISSUED], ids=[name for name, _ in ISSUED])
def test_certificate_fits_its_issuer(issued: Issued) -> None:
    """Name, key identifier, policies and signature, as pkilint's chain linter compares them."""
    together: dict[str, document.Document] = {}
    for role, each in (("issuer", issued.above[0]), ("subject", issued.certificate)):
        together[role] = _load(each, role, together)
        list(_decoders().validate(together[role].root))
    results = [
        *_against_subject().validate(together["issuer"].root),
        *_signature().validate(together["subject"].root),
    ]
    assert list(_findings(results)) == []


def test_every_waiver_is_needed() -> None:
    """A waiver that nothing needs is removed."""
    validator = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [certificate.create_extensions_validator_container([])],
    )
    used = {
        code
        for issued in PUBLISHED.values()
        for code, message in _findings(validator.validate(_load(issued.certificate, "certificate").root))
        if _is_waived(code, message)
    }
    assert used == WAIVED.keys()


def _decoders() -> validation.ValidatorContainer:
    return validation.ValidatorContainer(
        validators=[
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
            pkix.create_signature_algorithm_identifier_decoder(
                algorithm.SIGNATURE_ALGORITHM_IDENTIFIER_MAPPINGS, path="certificate.tbsCertificate.signature"
            ),
            certificate.create_spki_decoder(
                key.SUBJECT_PUBLIC_KEY_ALGORITHM_IDENTIFIER_MAPPINGS,
                key.SUBJECT_KEY_PARAMETER_ALGORITHM_IDENTIFIER_MAPPINGS,
            ),
        ],
        path="certificate",
    )


def _against_subject() -> validation.ValidatorContainer:
    return validation.ValidatorContainer(
        validators=[
            name.IssuerSubjectNameBinaryEqualValidator(
                path="certificate.tbsCertificate.subject",
                subject_document_issuer_dn_path="subject:certificate.tbsCertificate.issuer",
            ),
            extension.IssuerSubjectKeyIdentifierBinaryEqualValidator(subject_auth_key_id_retriever=_authority_key_id),
            certificate_extension.IssuerSubjectPolicyChainValidator(),
        ]
    )


def _authority_key_id(node: document.PDUNode) -> object:
    return document.get_document_by_name(node, "subject").get_extension_by_oid(rfc5280.id_ce_authorityKeyIdentifier)


def _signature() -> validation.ValidatorContainer:
    return validation.ValidatorContainer(
        validators=[
            certificate_key.SubjectSignatureVerificationValidator(
                tbs_node_retriever=lambda node: node.navigate("^.tbsCertificate"), path="certificate.signature"
            )
        ]
    )
