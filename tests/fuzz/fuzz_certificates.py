"""Certificates of peers, revocation lists and OCSP requests: from whoever opens a connection."""

from datetime import timedelta

from asn1crypto import parser
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki import profiles
from pki.authority import CertificateAuthority
from pki.chains import verify_idevid, verify_ldevid
from pki.errors import PkiError
from pki.ocsp import OcspResponder
from pki.profiles import Profile
from pki.revocation import Reason, Revocation, sign_crl, verify_crl
from protocol.errors import ProtocolError
from protocol.identity import X509_ERRORS, access_in, device_id_in
from protocol.signing import Signer
from tests.fuzz.target import KEY, SIGNER, Target
from tests.unit.pki.factory_builder import factory_authority
from tests.unit.pki.pki_builder import NOW, Tree, der
from tests.unit.pki.test_pki_est import oid, sequence

_TREE = Tree()
_AUTHORITY = factory_authority(SIGNER)
_ISSUING_CA = _TREE.root.issue(profiles.issuing_ca("demo", now=NOW), KEY)
_LDEVID = CertificateAuthority([_ISSUING_CA], SIGNER).issue(profiles.ldevid(_TREE.device_id, now=NOW), KEY)
_IDEVID = _TREE.idevid()
_ERRORS = (PkiError, ProtocolError)
_REVOKED = {7: Revocation(NOW, Reason.KEY_COMPROMISE), 8: Revocation(NOW, Reason.CERTIFICATE_HOLD)}
_CRL = sign_crl(_AUTHORITY, number=3, revoked=_REVOKED, now=NOW, lifetime=timedelta(days=30))


def _responder() -> OcspResponder:
    purposes = (ExtendedKeyUsageOID.OCSP_SIGNING,)
    profile = Profile(x509.Name([]), (x509.DNSName("ocsp"),), None, purposes, NOW, NOW + timedelta(days=30))
    return OcspResponder(_AUTHORITY.certificate, _AUTHORITY.issue(profile, KEY), SIGNER)


_RESPONDER = _responder()


def _idevid(unverified: bytes) -> None:
    verify_idevid(unverified, factory=_TREE.factory.certificate, root=_TREE.root.certificate, now=NOW)


def _ldevid(unverified: bytes) -> None:
    verify_ldevid(unverified, issuing_cas=[_ISSUING_CA], root=_TREE.root.certificate, now=NOW)


def _names(unverified: bytes) -> None:
    """A certificate that TLS let through, as its names and policies are read."""
    try:
        certificate = x509.load_der_x509_certificate(unverified)
    except X509_ERRORS:
        return
    for read in (device_id_in, access_in):
        try:
            read(certificate)
        except ProtocolError:
            continue


def _certified(unverified: bytes) -> None:
    """A body (TBSCertificate) that the issuing authority signed, whatever it says."""
    _ldevid(_signed(unverified, SIGNER))


def _listed(unverified: bytes) -> None:
    """A body (TBSCertList) that the authority signed, whatever it says."""
    _crl(_signed(unverified, SIGNER))


def _signed(body: bytes, signer: Signer) -> bytes:
    signature = parser.emit(0, 0, 3, b"\x00" + signer.sign(body))
    return sequence(body, sequence(oid("1.2.840.10045.4.3.2")), signature)


def _crl(unverified: bytes) -> None:
    verify_crl(unverified, issuer=_AUTHORITY.certificate, now=NOW)


def _ocsp(unverified: bytes) -> None:
    """Every request gets an answer that others can read."""
    ocsp.load_der_ocsp_response(_RESPONDER.respond(unverified, _CRL, now=NOW).der)


def _ocsp_request() -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(_IDEVID, _AUTHORITY.certificate, hashes.SHA256())
    return builder.add_extension(x509.OCSPNonce(bytes(16)), critical=False).build().public_bytes(Encoding.DER)


TARGETS = (
    Target("idevid", _idevid, _ERRORS, (der(_IDEVID), _IDEVID.public_bytes(Encoding.PEM))),
    Target("ldevid", _ldevid, _ERRORS, (der(_LDEVID), _LDEVID.public_bytes(Encoding.PEM))),
    Target("certificate-names", _names, (), (der(_LDEVID), der(_IDEVID))),
    Target("ldevid-body", _certified, _ERRORS, (_LDEVID.tbs_certificate_bytes,)),
    Target("crl-body", _listed, _ERRORS, (x509.load_der_x509_crl(_CRL.der).tbs_certlist_bytes,)),
    Target("crl", _crl, _ERRORS, (_CRL.der,)),
    Target("ocsp", _ocsp, (), (_ocsp_request(),)),
)
