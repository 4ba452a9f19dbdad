"""Certificate signing requests: as bytes, and validly signed with one part out of hand."""

from asn1crypto import parser
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID

from pki.csr import verify_idevid_csr, verify_ldevid_csr
from pki.errors import PkiError
from pki.est import evidence_in
from protocol.errors import ProtocolError
from protocol.est import EVIDENCE
from protocol.identity import device_id_of
from protocol.signing import SoftwareSigner
from tests.fuzz.target import KEY, SIGNER, Target
from tests.unit.pki.pki_builder import csr_builder, signed
from tests.unit.pki.test_pki_est import bundle, csr_with_attribute, oid, sequence, statement

_ERRORS = (PkiError, ProtocolError)
_OPERATIONAL = SoftwareSigner.generate()
_BIRTH = signed(csr_builder(device_id_of(KEY)), SIGNER)
_OPERATION = signed(csr_builder(device_id_of(KEY)), _OPERATIONAL)
_NAMES = x509.load_der_x509_csr(_BIRTH).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
_WITH_EVIDENCE = csr_with_attribute(bundle(statement()), _OPERATIONAL)


def _for_operation(unverified: bytes) -> None:
    verify_ldevid_csr(unverified, device_id_of(KEY), identity_key=KEY)


def _with_extension(oid: x509.ObjectIdentifier, value: bytes) -> bytes:
    extension = x509.UnrecognizedExtension(oid, value)
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(extension, critical=True)
    return builder.sign(SIGNER.private_key, hashes.SHA256()).public_bytes(Encoding.DER)


def _with_names(unverified: bytes) -> None:
    verify_idevid_csr(_with_extension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, unverified))


def _with_body(unverified: bytes) -> None:
    """A body (CertificationRequestInfo) that the device signed, whatever it says."""
    signature = parser.emit(0, 0, 3, b"\x00" + SIGNER.sign(unverified))
    verify_idevid_csr(sequence(unverified, sequence(oid("1.2.840.10045.4.3.2")), signature))


def _with_usage(unverified: bytes) -> None:
    names = csr_builder(device_id_of(KEY))
    usage = x509.UnrecognizedExtension(ExtensionOID.KEY_USAGE, unverified)
    verify_idevid_csr(signed(names.add_extension(usage, critical=True), SIGNER))


def _with_bundle(unverified: bytes) -> None:
    evidence_in(_with_extension(EVIDENCE, unverified))


TARGETS = (
    Target("csr-idevid", verify_idevid_csr, _ERRORS, (_BIRTH, _OPERATION)),
    Target("csr-ldevid", _for_operation, _ERRORS, (_OPERATION, _BIRTH)),
    Target("csr-names", _with_names, _ERRORS, (_NAMES.public_bytes(),)),
    Target("csr-body", _with_body, _ERRORS, (x509.load_der_x509_csr(_BIRTH).tbs_certrequest_bytes,)),
    Target("csr-usage", _with_usage, _ERRORS, (b"\x03\x02\x07\x80",)),
    Target("est-csr", evidence_in, _ERRORS, (_WITH_EVIDENCE, _OPERATION)),
    Target("est-evidence", _with_bundle, _ERRORS, (bundle(statement()),)),
)
