"""The steps of a ceremony: keys, certificates, requests and first metadata, in the order in which they are made.

Each step makes one thing, or takes what an interrupted run has made of it; it never overwrites. A certificate is
written to operator/issuance.jsonl before its file appears.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tuf.api.metadata import Metadata, Root

from pki.authority import CertificateAuthority, chain_pem, self_signed_root
from pki.catalog import Catalog, encode_catalog
from pki.ceremony_certificates import (
    OFFLINE_CERTIFICATES,
    ONLINE_CERTIFICATES,
    REQUESTS,
    PlannedCertificate,
    differences,
    key_sha256,
    planned_certificates,
)
from pki.ceremony_declaration import Declaration, DeclarationFile
from pki.errors import CeremonyError
from pki.files import PUBLIC_MODE, create_file
from pki.issuance import OPERATOR_LOG_FILE, append_to_file, certificate_sha256, facts_of
from pki.log_key import LOG_REQUEST_FILE, requested_log_key
from pki.metadata import (
    DELTAS_PATHS,
    DELTAS_ROLE,
    Delegation,
    director_root,
    image_root,
    role_delegations,
    sign_targets,
)
from pki.online import ROOT_METADATA_LIFETIME, TARGETS_METADATA_LIFETIME, load_certificate, requested_key
from pki.revocation import sign_crl
from pki.roles import OfflineKey, OnlineKey
from pki.stores import KeyStores
from pki.transcript import CEREMONY_FOLDER, Made, StepKind, sha256_hex
from protocol.notes import VerifierKey
from protocol.transparency import LogPolicy, policy_field, policy_of

FIRST_CRL_LIFETIME = timedelta(days=365)
DECLARATION_FILE = "declaration.yaml"
LOG_REQUEST = f"service/{LOG_REQUEST_FILE}"
IMAGE_ROOT = "service/genesis/image.root.json"
REPOSITORY_COPIES = {
    "image.root.json": "1.root.json",
    "image.targets.json": "1.targets.json",
    "director.root.json": "director.root.json",
    "catalog.json": "catalog.json",
}
TRUSTED_BY_THE_SERVICE = (OfflineKey.ROOT, OfflineKey.FACTORY, OfflineKey.SERVER_CA)


@dataclass(frozen=True, slots=True)
class CeremonyStep:
    """A step that is to be done.

    Attributes:
        name: of what it makes; see `Made`.
        text: what it will do, for those who take part.
        perform: does it; done again, it changes nothing.
    """

    kind: StepKind
    name: str
    text: str
    perform: Callable[[], Made]


@dataclass(frozen=True, slots=True)
class CeremonySteps:
    """Makes the steps of one ceremony.

    Attributes:
        data_dir: holds operator/ and service/.
        keys: the operator's key stores.
        began_at: when every validity begins, UTC, aware.
        adopt: take certificates that are there but not as declared, and say so in the transcript.
    """

    data_dir: Path
    declared: DeclarationFile
    keys: KeyStores
    began_at: datetime
    adopt: bool

    def steps(self) -> Iterator[CeremonyStep]:
        """Return the steps in their order.

        Raises:
            CsrError: a CSR is missing or breaks a rule.
        """
        planned = planned_certificates(self.declared.declaration, began_at=self.began_at)
        name = f"operator/{CEREMONY_FOLDER}/{DECLARATION_FILE}"
        text = f"keep the declaration, SHA-256 {self.declared.sha256}"
        yield CeremonyStep(StepKind.DECLARATION, name, text, partial(self._declaration, name))
        for role in OfflineKey:
            text = f"key {role} in store {self.keys.store_of(role)}"
            yield CeremonyStep(StepKind.KEY, role, text, partial(self._key, role))
        yield from (self._certificate_step(each) for each in planned if each.role in set(OfflineKey))
        for online in OnlineKey:
            name = f"{REQUESTS}/{online}.pem"
            shown = requested_key(self.data_dir / "service", online)
            text = f"request of the service for its key {online}, SHA-256 {key_sha256(shown)}"
            yield CeremonyStep(StepKind.REQUEST, name, text, partial(self._request, name, online, shown=shown))
        yield from (self._certificate_step(each) for each in planned if each.role in set(OnlineKey))
        for role in TRUSTED_BY_THE_SERVICE:
            name, text = f"{ONLINE_CERTIFICATES}/{role}.pem", f"certificate {role} for the service"
            source = next(each for each in planned if each.role == role)
            copy = partial(self._copied_certificate, name, source)
            yield CeremonyStep(StepKind.CERTIFICATE, name, text, copy)
        if self._is_logged():
            yield self._log_step()
        yield from self._metadata_steps()

    def _certificate_step(self, planned: PlannedCertificate) -> CeremonyStep:
        profile = planned.profile
        issuer = planned.issuer or "itself"
        text = (
            f"certificate {planned.role} by {issuer}, {profile.subject.rfc4514_string()}, ends {profile.not_after:%F}"
        )
        return CeremonyStep(StepKind.CERTIFICATE, planned.path, text, partial(self._certificate, planned))

    def _is_logged(self) -> bool:
        """Whether the Image root carries a policy; one that an earlier version made is taken as it is."""
        path = self.data_dir / IMAGE_ROOT
        if self.adopt and path.exists():
            return policy_of(Metadata[Root].from_bytes(path.read_bytes()).signed) is not None
        return self.declared.declaration.transparency.required

    def _log_step(self) -> CeremonyStep:
        shown = requested_log_key(self.data_dir / "service")
        text = f"request of the service for its transparency log, {shown}"
        return CeremonyStep(StepKind.METADATA, LOG_REQUEST, text, partial(self._log_request, shown=shown))

    def _metadata_steps(self) -> Iterator[CeremonyStep]:
        genesis: dict[str, Callable[[], bytes]] = {
            "catalog.json": self._catalog,
            "director.root.json": self._director_root,
            "image.root.json": self._image_root,
            "image.targets.json": self._image_targets,
        }
        for role in TRUSTED_BY_THE_SERVICE:
            genesis[f"{role}.crl"] = partial(self._first_crl, role)
        for name, content in genesis.items():
            path, text = f"service/genesis/{name}", f"first {name}"
            yield CeremonyStep(StepKind.METADATA, path, text, partial(self._file, path, content))
        for source, name in REPOSITORY_COPIES.items():
            path, text = f"operator/repository/{name}", f"working copy of {source}"
            copied = (self.data_dir / f"service/genesis/{source}").read_bytes
            yield CeremonyStep(StepKind.METADATA, path, text, partial(self._file, path, copied))

    def _declaration(self, name: str) -> Made:
        content, path = self.declared.content, self.data_dir / name
        made = self._file(name, lambda: content, kind=StepKind.DECLARATION)
        if made.sha256 != self.declared.sha256:
            raise CeremonyError(
                f"{path}: expected the declaration that the ceremony began with, SHA-256 {made.sha256[:16]}…, "
                f"found another, {self.declared.sha256[:16]}…"
            )
        return made

    def _key(self, role: OfflineKey) -> Made:
        signer = self.keys.load(role) if self.keys.holds(role) else self.keys.generate(role)
        return Made(StepKind.KEY, role, key_sha256(signer.public_key), store=self.keys.store_of(role))

    def _request(self, name: str, role: OnlineKey, *, shown: ec.EllipticCurvePublicKey) -> Made:
        key = requested_key(self.data_dir / "service", role)
        if key != shown:
            raise CeremonyError(f"{name}: expected the request that was shown, found another")
        return Made(StepKind.REQUEST, name, self._digest(name), fingerprint=key_sha256(key))

    def _log_request(self, *, shown: VerifierKey) -> Made:
        if requested_log_key(self.data_dir / "service") != shown:
            raise CeremonyError(f"{LOG_REQUEST}: expected the request that was shown, found another")
        return Made(StepKind.METADATA, LOG_REQUEST, self._digest(LOG_REQUEST))

    def _certificate(self, planned: PlannedCertificate) -> Made:
        path = self.data_dir / planned.path
        if not path.exists():
            issue_planned(
                self.data_dir,
                planned,
                self.keys,
                public_key=self._public_key(planned.role),
                publish_url=self.declared.declaration.publish_url,
                now=self.began_at,
            )
        certificate, found = load_certificate(path), list(self._differences(planned))
        if found and not self.adopt:
            raise CeremonyError(f"{planned.path}: {found[0]}; with --adopt the ceremony takes it as it is")
        return self._made_certificate(planned.path, certificate, adopted=bool(found))

    def _differences(self, planned: PlannedCertificate) -> Iterator[str]:
        certificate = load_certificate(self.data_dir / planned.path)
        issuer = certificate if planned.issuer is None else authority_certificate(self.data_dir, planned.issuer)
        if certificate.public_key() != self._public_key(planned.role):
            yield f"key: expected that of {planned.role}, found another"
        publish_url = self.declared.declaration.publish_url
        yield from differences(certificate, planned, issuer=issuer, publish_url=publish_url)

    def _copied_certificate(self, name: str, source: PlannedCertificate) -> Made:
        made = self._file(name, (self.data_dir / source.path).read_bytes, kind=StepKind.CERTIFICATE)
        if made.sha256 != self._digest(source.path):
            raise CeremonyError(f"{name}: expected the same as {source.path}, found another certificate")
        adopted = any(self._differences(source))
        return self._made_certificate(name, load_certificate(self.data_dir / name), adopted=adopted)

    def _made_certificate(self, name: str, certificate: x509.Certificate, *, adopted: bool) -> Made:
        fingerprint = certificate_sha256(certificate)
        return Made(StepKind.CERTIFICATE, name, self._digest(name), fingerprint=fingerprint, adopted=adopted)

    def _file(self, name: str, content: Callable[[], bytes], *, kind: StepKind = StepKind.METADATA) -> Made:
        path = self.data_dir / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            create_file(path, content(), mode=PUBLIC_MODE)
        return Made(kind, name, self._digest(name))

    def _digest(self, name: str) -> str:
        return sha256_hex((self.data_dir / name).read_bytes())

    def _public_key(self, role: str) -> ec.EllipticCurvePublicKey:
        if role in set(OfflineKey):
            return self.keys.load(role).public_key
        return requested_key(self.data_dir / "service", role)

    def _catalog(self) -> bytes:
        catalog = Catalog(
            catalog_id=str(uuid.uuid4()),
            name=self.declared.declaration.catalog,
            package_keys=[self._public_key(OfflineKey.PACKAGE)],
            system_keys=[self._public_key(OfflineKey.ROM)],
            golden_keys=[self._public_key(OfflineKey.GOLDEN)],
        )
        return encode_catalog(catalog)

    def _director_root(self) -> bytes:
        expires = self.began_at + ROOT_METADATA_LIFETIME
        director = self._public_key(OnlineKey.DIRECTOR)
        return director_root(self.keys.load(OfflineKey.ROOT), director=director, expires=expires)

    def _image_root(self) -> bytes:
        policy = declared_policy(self.data_dir, self.declared.declaration)
        return image_root(
            self.keys.load(OfflineKey.ROOT),
            targets=self._public_key(OfflineKey.IMAGE_TARGETS),
            snapshot=self._public_key(OnlineKey.SNAPSHOT),
            timestamp=self._public_key(OnlineKey.TIMESTAMP),
            expires=self.began_at + ROOT_METADATA_LIFETIME,
            fields={} if policy is None else policy_field(policy),
        )

    def _first_crl(self, role: OfflineKey) -> bytes:
        authority = CertificateAuthority([authority_certificate(self.data_dir, role)], self.keys.load(role))
        return sign_crl(authority, number=1, revoked={}, now=self.began_at, lifetime=FIRST_CRL_LIFETIME).der

    def _image_targets(self) -> bytes:
        patches = Delegation(DELTAS_ROLE, (self._public_key(OnlineKey.SNAPSHOT),), 1, DELTAS_PATHS)
        return sign_targets(
            [],
            self.keys.load(OfflineKey.IMAGE_TARGETS),
            version=1,
            expires=self.began_at + TARGETS_METADATA_LIFETIME,
            delegations=role_delegations([patches]),
        )


def declared_policy(data_dir: Path, declaration: Declaration) -> LogPolicy | None:
    """Return what the Image root is to say of the transparency log; None where devices ask for no proof.

    Raises:
        LogRequestError: the service's request is missing or malformed.
        LogPolicyError: a witness has the name or the key of the log.
    """
    declared = declaration.transparency
    return declared.policy(requested_log_key(data_dir / "service")) if declared.required else None


def authority_certificate(data_dir: Path, role: OfflineKey) -> x509.Certificate:
    """Return the certificate of an offline authority.

    Raises:
        ChainError: it is missing or malformed.
    """
    return load_certificate(data_dir / OFFLINE_CERTIFICATES / f"{role}.pem")


def issue_planned(
    data_dir: Path,
    planned: PlannedCertificate,
    keys: KeyStores,
    *,
    public_key: ec.EllipticCurvePublicKey,
    publish_url: str | None,
    now: datetime,
) -> x509.Certificate:
    """Issue a planned certificate: log it, then write its file.

    Raises:
        KeyStoreError: the issuer's key cannot be used.
        FileExistsError: there is such a file.
    """
    issuing = keys.load(planned.issuer or planned.role)
    if planned.issuer is None:
        authority = self_signed_root(planned.profile, issuing)
        certificate = authority.certificate
    else:
        chain = [authority_certificate(data_dir, planned.issuer)]
        authority = CertificateAuthority(chain, issuing, publish_url=publish_url)
        certificate = authority.issue(planned.profile, public_key)
    facts = facts_of(certificate, kind=planned.kind, issuer=authority.certificate, at=now)
    append_to_file(data_dir / "operator" / OPERATOR_LOG_FILE, [facts])
    content = authority.chain_pem(certificate) if planned.with_issuer else chain_pem([certificate])
    path = data_dir / planned.path
    path.parent.mkdir(parents=True, exist_ok=True)
    create_file(path, content, mode=PUBLIC_MODE)
    return certificate
