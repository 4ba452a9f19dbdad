"""What device and service say to each other by EST (RFC 7030), and the object identifiers of evidence in a CSR.

Below `PATH` of the device listener, mutual TLS:

    GET  /cacerts          → certificates of the authorities; any device certificate
    GET  /csrattrs         → what a CSR holds
    GET  /nonce            → {"nonce": base64url, "expiry": seconds}, draft-ietf-lamps-attestation-freshness
    POST /simpleenroll     CSR with evidence → LDevID; by IDevID
    POST /simplereenroll   CSR with evidence → LDevID; by an LDevID that is still valid

Evidence is in the CSR as an EvidenceBundle (draft-ietf-lamps-csr-attestation) below `EVIDENCE`, as an attribute or as
an extension that is asked for, with one statement: type `PSA_TOKEN`, an OCTET STRING that holds the token.
"""

from cryptography import x509

from protocol.identity import TINYFLEET_ARC

PATH = "/.well-known/est"
PKCS7_MEDIA_TYPE = "application/pkcs7-mime"
PKCS10_MEDIA_TYPE = "application/pkcs10"
CSRATTRS_MEDIA_TYPE = "application/csrattrs"
NONCE_MEDIA_TYPE = "application/est-attestation-freshness+json"
EVIDENCE = x509.ObjectIdentifier("1.2.840.113549.1.9.16.2.59")  # id-aa-evidence
PSA_TOKEN = x509.ObjectIdentifier(f"{TINYFLEET_ARC}.4")
