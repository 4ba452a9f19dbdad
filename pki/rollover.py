"""Rollover of the issuing CA: generations of its key, which devices never notice.

    request    the service makes the key of the next generation and a CSR
    accept     the root has signed it; old and new key cross-sign each other, and the service trusts both generations
    activate   the service issues by the new generation
    retire     nothing of the old generation is valid any more; it is trusted no longer

All generations have the same name, so that certificates are told apart by authority key identifier (RFC 5280
§4.2.1.1). A cross certificate is self-issued (RFC 4210 §4.4.1, new with old and old with new): who has pinned either
generation accepts both, and the path length of the one that is pinned is not used up (RFC 5280 §4.2.1.9).

The state is the service's folder; generation 1 has no number in its name:

    keys/issuing-ca-2.pem  csr/issuing-ca-2.pem  certificates/issuing-ca-2.pem
    certificates/issuing-ca-2-by-1.pem     the new key, signed by the old
    certificates/issuing-ca-1-by-2.pem     the old key, signed by the new; not where the old key is compromised
    issuing-ca.json                        {"active": 1, "retired": []}; without it 1 is active

What the service shows as the generation in force is a claim: the root signs a successor only of a certificate that the
operator's own records name as an issuing CA, and always under name constraints.

A certificate that comes back from the root is verified in this order:
    1. form: one certificate, PEM;
    2. key: that of the generation that was requested;
    3. name: that of the generation in force;
    4. issuer: the root signed it;
    5. authority: CA, path length 0, for signing certificates, with a subject key identifier;
    6. time: valid now.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from pki.authority import CertificateAuthority, chain_pem, publish_url_in
from pki.chains import issued_by, load_chain
from pki.csr import make_csr, verify_service_csr
from pki.errors import ChainError, GenerationCertificateError, GenerationStateError, UnknownGenerationError
from pki.files import PUBLIC_MODE, create_file, replace_file
from pki.issuance import certificate_sha256
from pki.keystore import KeyStore
from pki.online import load_certificate
from pki.profiles import CLOCK_SKEW, NO_HOST, Profile, Revocation
from pki.roles import OnlineKey
from protocol.document import Document, canonical_json, parse_document
from protocol.errors import ProtocolError
from protocol.identity import X509_ERRORS
from protocol.signing import Signer

STATE_FILE = "issuing-ca.json"
_NUMBERED_FILE = re.compile(r"issuing-ca-([0-9]{1,4})\.pem")


class GenerationState(StrEnum):
    """How far a generation is."""

    REQUESTED = "requested"  # has a key and a CSR
    TRUSTED = "trusted"  # its certificates are accepted
    ACTIVE = "active"  # issues
    RETIRED = "retired"  # its certificates are refused


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of the issuing CA.

    Attributes:
        number: from 1.
        certificate: by the root; None while it is requested.
        crosses: this generation's key, signed by its neighbours that are not retired.
    """

    number: int
    state: GenerationState
    certificate: x509.Certificate | None
    crosses: tuple[x509.Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A verified certificate of a new generation, and the cross certificates that its acceptance makes.

    Attributes:
        number: of the new generation.
        certificate: by the root.
        predecessor: the generation in force, and its certificate.
        new_with_old: the new key, signed by the old.
        old_with_new: the old key, signed by the new; None where the old key is compromised.
    """

    number: int
    certificate: x509.Certificate
    predecessor: tuple[int, x509.Certificate]
    new_with_old: x509.Certificate
    old_with_new: x509.Certificate | None


class _State(Document):
    active: int = 1
    retired: tuple[int, ...] = ()


def key_role(number: int) -> str:
    """Return the name of a generation's key and files."""
    return OnlineKey.ISSUING_CA if number == 1 else f"{OnlineKey.ISSUING_CA}-{number}"


def read_generations(service_dir: Path) -> list[Generation]:
    """Return every generation by number; exactly one is active.

    Raises:
        ChainError: a certificate is missing or malformed.
        GenerationStateError: the state file is malformed, or names a generation that is not there.
    """
    state = _read_state(service_dir)
    certificates = {
        number: load_certificate(path)
        for number in range(1, _last_number(service_dir) + 1)
        if (path := _certificate_path(service_dir, number)).exists() or number == 1
    }
    if state.active not in certificates or state.active in state.retired:
        raise GenerationStateError(f"{STATE_FILE}: expected an active generation in force, found {state.active}")
    found = list[Generation]()
    for number in range(1, _last_number(service_dir) + 1):
        certificate, step = certificates.get(number), _step(state, number, certified=number in certificates)
        beside = (number - 1, number + 1) if number in certificates else ()
        neighbours = [by for by in beside if by in certificates and by not in state.retired]
        crosses = [path for by in neighbours if (path := _cross_path(service_dir, number, by=by)).exists()]
        found.append(Generation(number, step, certificate, tuple(load_certificate(path) for path in crosses)))
    return found


def active_authority(generations: Sequence[Generation], keys: KeyStore) -> CertificateAuthority:
    """Return the authority that issues: the active generation, with its cross certificates in its chain.

    Raises:
        KeyStoreError: its key is missing or cannot be used.
        ChainError: its certificate is of another key.
    """
    active = _active(generations)
    return CertificateAuthority([*_own(active), *active.crosses], keys.load(key_role(active.number)))


def trusted_certificates(generations: Sequence[Generation]) -> tuple[x509.Certificate, ...]:
    """Return the certificates of the generations that are not retired, newest first."""
    trusted = [one for one in generations if one.state in {GenerationState.TRUSTED, GenerationState.ACTIVE}]
    newest_first = sorted(trusted, key=lambda one: one.number, reverse=True)
    return tuple(certificate for one in newest_first for certificate in _own(one))


def cross_certificates(generations: Sequence[Generation]) -> tuple[x509.Certificate, ...]:
    """Return the cross certificates between generations that are not retired; for who pins one of them."""
    return tuple(cross for one in generations if one.state is not GenerationState.RETIRED for cross in one.crosses)


def request_generation(service_dir: Path, keys: KeyStore) -> tuple[int, bytes]:
    """Make the next generation's key and CSR; one that is requested already is returned again.

    Returns:
        Its number, and the CSR, PEM.

    Raises:
        GenerationStateError: a generation is trusted that is newer than the active one.
        KeyStoreError: the key cannot be made or used.
    """
    generations = read_generations(service_dir)
    last = generations[-1]
    if last.state is GenerationState.TRUSTED and last.number > _active(generations).number:
        raise GenerationStateError(f"issuing CA: expected to activate generation {last.number}, found a new request")
    number = last.number if last.state is GenerationState.REQUESTED else last.number + 1
    path, role = _csr_path(service_dir, number), key_role(number)
    if not path.exists():
        signer = keys.load(role) if keys.holds(role) else keys.generate(role)
        create_file(path, make_csr(signer, role), mode=PUBLIC_MODE)
    return number, path.read_bytes()


def sign_generation(
    unverified_csr: bytes,
    number: int,
    *,
    unverified_predecessor: x509.Certificate,
    known: Collection[str],
    root: x509.Certificate,
    root_signer: Signer,
    now: datetime,
) -> x509.Certificate:
    """Sign the next generation by the root; on the operator's side.

    Args:
        unverified_csr: as the service made it, PEM.
        number: of the new generation.
        unverified_predecessor: what the service shows as the generation in force: name, length of life and publication
            are taken over.
        known: the issuing CA's certificates by the operator's own records, SHA-256 of the DER, hex.
        root: issued the predecessor.
        root_signer: its key.
        now: UTC, aware.

    Raises:
        CsrError: the CSR breaks a rule, or is of another generation.
        GenerationCertificateError: the predecessor is no issuing CA of the operator's records, or not by this root.
    """
    public_key = verify_service_csr(unverified_csr, key_role(number))
    predecessor = _verified_predecessor(unverified_predecessor, known=known, root=root)
    life = predecessor.not_valid_after_utc - predecessor.not_valid_before_utc - CLOCK_SKEW
    not_after = min(now + life, root.not_valid_after_utc)
    like = _profile(predecessor, revocation=Revocation.CRL, not_before=now - CLOCK_SKEW, not_after=not_after)
    profile = replace(like, constraints=NO_HOST)  # a folder from before name constraints gets them now
    authority = CertificateAuthority([root], root_signer, publish_url=publish_url_in(predecessor))
    return authority.issue(profile, public_key)


def verify_generation(
    service_dir: Path,
    unverified_certificate: bytes,
    *,
    keys: KeyStore,
    root: x509.Certificate,
    now: datetime,
    compromised: bool = False,
) -> Acceptance:
    """Verify what the root signed and cross-sign it; nothing is written, see `accept_generation`.

    Args:
        service_dir: the service's folder.
        unverified_certificate: of the generation that was requested, PEM.
        keys: the service's.
        root: must have signed it.
        now: UTC, aware.
        compromised: somebody else has the old key; the new one does not vouch for it.

    Raises:
        GenerationCertificateError: steps 1 to 6.
        GenerationStateError: no generation is requested.
        KeyStoreError: a key cannot be used.
    """
    generations = read_generations(service_dir)
    requested, active = generations[-1], _active(generations)
    if requested.state is not GenerationState.REQUESTED or active.certificate is None:
        raise GenerationStateError(f"issuing CA: expected a requested generation, found one that is {requested.state}")
    old, new = keys.load(key_role(active.number)), keys.load(key_role(requested.number))
    predecessor = active.certificate
    certificate = _verified(unverified_certificate, new.public_key, predecessor=predecessor, root=root, now=now)
    # RFC 4210 §4.4.1: the old generation's time bounds both.
    begin, end = predecessor.not_valid_before_utc, predecessor.not_valid_after_utc
    forward = _profile(certificate, not_before=now - CLOCK_SKEW, not_after=min(end, certificate.not_valid_after_utc))
    backward = _profile(predecessor, not_before=begin, not_after=end)
    authority = CertificateAuthority([certificate], new)
    return Acceptance(
        number=requested.number,
        certificate=certificate,
        predecessor=(active.number, predecessor),
        new_with_old=CertificateAuthority([predecessor], old).issue(forward, new.public_key),
        old_with_new=None if compromised else authority.issue(backward, old.public_key),
    )


def accept_generation(service_dir: Path, acceptance: Acceptance) -> None:
    """Write down what was verified: the service trusts the generation from its next look at the folder on."""
    old, new = acceptance.predecessor[0], acceptance.number
    for path, certificate in (
        (_cross_path(service_dir, new, by=old), acceptance.new_with_old),
        (_cross_path(service_dir, old, by=new), acceptance.old_with_new),
        (_certificate_path(service_dir, new), acceptance.certificate),  # last: says that the generation is accepted
    ):
        if certificate is None:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, chain_pem([certificate]), mode=PUBLIC_MODE)


def activate_generation(service_dir: Path, number: int) -> None:
    """Issue by a generation that is trusted; of one that is active already nothing changes.

    Raises:
        UnknownGenerationError: there is none of this number.
        GenerationStateError: it is not trusted, or older than the one in force.
    """
    check_activation(service_dir, number)
    _write_state(service_dir, _State(active=number, retired=_read_state(service_dir).retired))


def check_activation(service_dir: Path, number: int) -> None:
    """Do what `activate_generation` does before it writes anything.

    Raises:
        UnknownGenerationError: as there.
        GenerationStateError: as there.
    """
    generations = read_generations(service_dir)
    wanted, active = _numbered(generations, number), _active(generations)
    if wanted.number == active.number:
        return
    if wanted.state is not GenerationState.TRUSTED or wanted.number < active.number:
        raise GenerationStateError(
            f"issuing CA: expected a trusted generation above {active.number}, found {number}, {wanted.state}"
        )


def retire_generation(service_dir: Path, number: int) -> None:
    """Trust a generation no longer; of one that is retired already nothing changes.

    Not checked here: that nothing it issued is valid any more; the issuance log knows.

    Raises:
        UnknownGenerationError: there is none of this number.
        GenerationStateError: it is requested or active.
    """
    check_retirement(service_dir, number)
    state = _read_state(service_dir)
    _write_state(service_dir, _State(active=state.active, retired=tuple(sorted({*state.retired, number}))))


def check_retirement(service_dir: Path, number: int) -> None:
    """Do what `retire_generation` does before it writes anything.

    Raises:
        UnknownGenerationError: as there.
        GenerationStateError: as there.
    """
    wanted = _numbered(read_generations(service_dir), number)
    if wanted.state in {GenerationState.REQUESTED, GenerationState.ACTIVE}:
        raise GenerationStateError(f"issuing CA: expected a superseded generation, found {number}, {wanted.state}")


def _verified(
    unverified_certificate: bytes,
    public_key: ec.EllipticCurvePublicKey,
    *,
    predecessor: x509.Certificate,
    root: x509.Certificate,
    now: datetime,
) -> x509.Certificate:
    # Step 1: form.
    try:
        chain = load_chain(unverified_certificate)
        certificate, (found_key, is_authority) = chain[0], _claims(chain[0])
    except (ChainError, *X509_ERRORS) as error:
        raise GenerationCertificateError(f"issuing CA: expected a certificate, found {error}") from error
    rules = (
        (len(chain) == 1, "one certificate alone"),
        (found_key == public_key, "the key that was requested"),  # step 2
        (certificate.subject == predecessor.subject, "the name of the generation in force"),  # step 3
        (issued_by(certificate, root), "one by the root"),  # step 4
        (is_authority, "an authority of path length 0 with a key identifier"),  # step 5
        (certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc, "one that is valid now"),  # step 6
    )
    for holds, rule in rules:
        if not holds:
            raise GenerationCertificateError(f"issuing CA: expected {rule}, found another")
    return certificate


def _verified_predecessor(
    unverified: x509.Certificate, *, known: Collection[str], root: x509.Certificate
) -> x509.Certificate:
    expected = "issuing CA: expected a generation in force"
    if not issued_by(unverified, root):
        raise GenerationCertificateError(f"{expected} by this root, found another")
    if certificate_sha256(unverified) not in known:
        raise GenerationCertificateError(f"{expected} that the operator's records name, found another certificate")
    if not _claims(unverified)[1]:
        raise GenerationCertificateError(f"{expected} that is an authority of path length 0, found another")
    return unverified


def _claims(certificate: x509.Certificate) -> tuple[object, bool]:
    """Return the key, and whether the certificate is that of an authority at the end of a path."""
    extensions = {type(extension.value): extension.value for extension in certificate.extensions}
    constraints, usage = extensions.get(x509.BasicConstraints), extensions.get(x509.KeyUsage)
    is_authority = (
        isinstance(constraints, x509.BasicConstraints)
        and constraints.ca
        and constraints.path_length == 0
        and isinstance(usage, x509.KeyUsage)
        and usage.key_cert_sign
        and x509.SubjectKeyIdentifier in extensions
    )
    return certificate.public_key(), is_authority


def _profile(
    like: x509.Certificate, *, not_before: datetime, not_after: datetime, revocation: Revocation = Revocation.NONE
) -> Profile:
    """A generation of the issuing CA with the name and constraints of another."""
    try:
        constraints = like.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    return Profile(
        subject=like.subject,
        names=(),
        path_length=0,
        purposes=(),
        not_before=not_before.replace(microsecond=0),
        not_after=not_after.replace(microsecond=0),
        constraints=constraints,
        revocation=revocation,
    )


def _own(generation: Generation) -> tuple[x509.Certificate, ...]:
    return () if generation.certificate is None else (generation.certificate,)


def _active(generations: Sequence[Generation]) -> Generation:
    return next(one for one in generations if one.state is GenerationState.ACTIVE)


def _numbered(generations: Sequence[Generation], number: int) -> Generation:
    for one in generations:
        if one.number == number:
            return one
    raise UnknownGenerationError(f"issuing CA: expected a generation from 1 to {len(generations)}, found {number}")


def _step(state: _State, number: int, *, certified: bool) -> GenerationState:
    if number in state.retired:
        return GenerationState.RETIRED
    if number == state.active:
        return GenerationState.ACTIVE
    return GenerationState.TRUSTED if certified else GenerationState.REQUESTED


def _read_state(service_dir: Path) -> _State:
    path = service_dir / STATE_FILE
    if not path.exists():
        return _State()
    try:
        return parse_document(path.read_bytes(), _State)
    except ProtocolError as error:
        raise GenerationStateError(f"{STATE_FILE}: expected active and retired generations, found {error}") from error


def _write_state(service_dir: Path, state: _State) -> None:
    replace_file(service_dir / STATE_FILE, canonical_json(state), mode=PUBLIC_MODE)


def _last_number(service_dir: Path) -> int:
    names = [
        path.name for folder in ("csr", "certificates") for path in (service_dir / folder).glob("issuing-ca-*.pem")
    ]
    return max((int(found[1]) for name in names if (found := _NUMBERED_FILE.fullmatch(name))), default=1)


def _csr_path(service_dir: Path, number: int) -> Path:
    return service_dir / "csr" / f"{key_role(number)}.pem"


def _certificate_path(service_dir: Path, number: int) -> Path:
    return service_dir / "certificates" / f"{key_role(number)}.pem"


def _cross_path(service_dir: Path, number: int, *, by: int) -> Path:
    return service_dir / "certificates" / f"{OnlineKey.ISSUING_CA}-{number}-by-{by}.pem"
