"""Rollover of the issuing CA: a step at a time, in a folder; one thing wrong per case."""

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from pki import profiles
from pki.authority import CertificateAuthority, chain_pem
from pki.chains import issued_by, verify_ldevid
from pki.csr import make_csr
from pki.errors import (
    ChainError,
    CsrError,
    GenerationCertificateError,
    GenerationStateError,
    RolloverError,
    UnknownGenerationError,
)
from pki.issuance import certificate_sha256
from pki.keystore import FileKeyStore
from pki.rollover import (
    STATE_FILE,
    Acceptance,
    GenerationState,
    accept_generation,
    activate_generation,
    active_authority,
    cross_certificates,
    key_role,
    read_generations,
    request_generation,
    retire_generation,
    sign_generation,
    trusted_certificates,
    verify_generation,
)
from tests.unit.pki.pki_builder import NOW, Tree, der

DAY = timedelta(days=1)
LATER = NOW + 300 * DAY
REQUESTED, TRUSTED, ACTIVE, RETIRED = GenerationState


class ServiceFolder:
    """A service's folder with generation 1, and the root that signs for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tree = Tree()
        self.keys = FileKeyStore(folder / "keys", passphrase=None)
        for name in ("csr", "certificates"):
            (folder / name).mkdir()
        first = self.tree.root.issue(profiles.issuing_ca("demo", now=NOW), self.keys.generate("issuing-ca").public_key)
        (folder / "certificates" / "issuing-ca.pem").write_bytes(chain_pem([first]))

    @property
    def root(self) -> x509.Certificate:
        return self.tree.root.certificate

    def states(self) -> list[GenerationState]:
        return [one.state for one in read_generations(self.folder)]

    def request(self) -> tuple[int, bytes]:
        return request_generation(self.folder, self.keys)

    def sign(self) -> x509.Certificate:
        number, csr = self.request()
        return self.sign_after(self.authority().certificate, csr, number)

    def sign_after(
        self,
        unverified_predecessor: x509.Certificate,
        csr: bytes,
        number: int,
        *,
        known: Collection[x509.Certificate] | None = None,
    ) -> x509.Certificate:
        return sign_generation(
            csr,
            number,
            unverified_predecessor=unverified_predecessor,
            known=set(map(certificate_sha256, [unverified_predecessor] if known is None else known)),
            root=self.root,
            root_signer=self.tree.root_signer,
            now=LATER,
        )

    def verify(self, unverified: bytes) -> Acceptance:
        return verify_generation(self.folder, unverified, keys=self.keys, root=self.root, now=LATER)

    def accept(self) -> Acceptance:
        acceptance = self.verify(chain_pem([self.sign()]))
        accept_generation(self.folder, acceptance)
        return acceptance

    def authority(self) -> CertificateAuthority:
        return active_authority(read_generations(self.folder), self.keys)

    def ldevid(self) -> x509.Certificate:
        profile = profiles.ldevid(self.tree.device_id, now=LATER)
        return self.authority().issue(profile, self.tree.operational.public_key)


@pytest.fixture
def service(tmp_path: Path) -> ServiceFolder:
    return ServiceFolder(tmp_path)


def test_folder_without_a_rollover_has_one_generation(service: ServiceFolder) -> None:
    """Active, without a cross certificate."""
    (only,) = read_generations(service.folder)
    assert (only.number, only.state, only.crosses) == (1, ACTIVE, ())
    assert trusted_certificates([only]) == (only.certificate,)
    assert service.authority().certificate == only.certificate


def test_generations_follow_one_another(service: ServiceFolder) -> None:
    """Requested, trusted, active and retired, twice; whoever is not retired is trusted, newest first."""
    assert service.request()[0] == 2
    assert service.states() == [ACTIVE, REQUESTED]
    service.accept()
    assert service.states() == [ACTIVE, TRUSTED]
    activate_generation(service.folder, 2)
    assert service.states() == [TRUSTED, ACTIVE]
    retire_generation(service.folder, 1)
    assert service.states() == [RETIRED, ACTIVE]
    service.accept()
    activate_generation(service.folder, 3)
    assert service.states() == [RETIRED, TRUSTED, ACTIVE]
    generations = read_generations(service.folder)
    assert trusted_certificates(generations) == (generations[2].certificate, generations[1].certificate)
    assert [path.name for path in sorted((service.folder / "keys").iterdir())] == [
        "issuing-ca-2.pem",
        "issuing-ca-3.pem",
        "issuing-ca.pem",
    ]


def test_certificates_of_both_generations_are_accepted_meanwhile(service: ServiceFolder) -> None:
    """Same name, other key: found by key identifier; after retirement only the new one is."""
    before = service.ldevid()
    service.accept()
    activate_generation(service.folder, 2)
    after = service.ldevid()
    assert before.issuer == after.issuer
    trusted = trusted_certificates(read_generations(service.folder))
    for leaf in (before, after):
        verify_ldevid(der(leaf), issuing_cas=trusted, root=service.root, now=LATER)
    retire_generation(service.folder, 1)
    trusted = trusted_certificates(read_generations(service.folder))
    verify_ldevid(der(after), issuing_cas=trusted, root=service.root, now=LATER)
    with pytest.raises(ChainError, match="found another issuer"):
        verify_ldevid(der(before), issuing_cas=trusted, root=service.root, now=LATER)


def test_cross_certificates_lead_from_each_generation_to_the_other(service: ServiceFolder) -> None:
    """Self-issued, with the key of one and the signature of the other, within the old one's time."""
    acceptance = service.accept()
    old, new = acceptance.predecessor[1], acceptance.certificate
    assert acceptance.old_with_new is not None
    for cross, key_of, issuer in (
        (acceptance.new_with_old, new, old),
        (acceptance.old_with_new, old, new),
    ):
        assert cross.subject == cross.issuer == old.subject
        assert cross.public_key() == key_of.public_key()
        assert issued_by(cross, issuer)
        assert cross.not_valid_after_utc <= old.not_valid_after_utc
        constraints = cross.extensions.get_extension_for_class(x509.NameConstraints).value
        assert constraints == old.extensions.get_extension_for_class(x509.NameConstraints).value
    assert cross_certificates(read_generations(service.folder)) == (acceptance.old_with_new, acceptance.new_with_old)


def test_compromised_key_is_not_vouched_for(service: ServiceFolder) -> None:
    """Not even by what an interrupted acceptance left behind."""
    service.accept()
    (service.folder / "certificates" / "issuing-ca-2.pem").unlink()
    unverified = chain_pem([service.sign()])
    acceptance = verify_generation(
        service.folder, unverified, keys=service.keys, root=service.root, now=LATER, compromised=True
    )
    accept_generation(service.folder, acceptance)
    assert acceptance.old_with_new is None
    assert cross_certificates(read_generations(service.folder)) == (acceptance.new_with_old,)


def test_chain_of_a_new_certificate_ends_with_the_cross_certificate(service: ServiceFolder) -> None:
    """Leaf, issuing CA, then new with old, as long as the old generation is trusted."""
    acceptance = service.accept()
    activate_generation(service.folder, 2)
    leaf = service.ldevid()
    chain = x509.load_pem_x509_certificates(service.authority().chain_pem(leaf))
    assert chain == [leaf, acceptance.certificate, acceptance.new_with_old]
    retire_generation(service.folder, 1)
    chain = x509.load_pem_x509_certificates(service.authority().chain_pem(leaf))
    assert chain == [leaf, acceptance.certificate]


def test_successor_is_what_its_predecessor_was(service: ServiceFolder) -> None:
    """Name, constraints, path length and length of life; but for another key and another time."""
    old, new = service.authority().certificate, service.sign()
    assert new.subject == old.subject
    assert new.not_valid_after_utc - new.not_valid_before_utc == old.not_valid_after_utc - old.not_valid_before_utc
    for kind in (x509.BasicConstraints, x509.KeyUsage, x509.NameConstraints):
        assert new.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(kind)
    assert issued_by(new, service.root)


def test_predecessor_without_constraints_has_a_successor_that_can_name_no_server(service: ServiceFolder) -> None:
    """A folder from before name constraints."""
    profile = replace(profiles.issuing_ca("demo", now=NOW), constraints=None)
    plain = service.tree.root.issue(profile, service.keys.load("issuing-ca").public_key)
    (service.folder / "certificates" / "issuing-ca.pem").write_bytes(chain_pem([plain]))
    found = service.accept().certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert (found.value, found.critical) == (profiles.NO_HOST, True)


def test_request_is_repeated_as_it_was(service: ServiceFolder) -> None:
    """Also after a crash between key and CSR: no second key."""
    number, csr = service.request()
    assert service.request() == (number, csr)
    key = service.keys.load("issuing-ca-2").public_key
    (service.folder / "csr" / "issuing-ca-2.pem").unlink()
    service.request()
    assert service.keys.load("issuing-ca-2").public_key == key


def test_trusted_generation_is_activated_before_another_is_requested(service: ServiceFolder) -> None:
    """One rollover at a time."""
    service.accept()
    with pytest.raises(GenerationStateError, match="expected to activate generation 2"):
        service.request()


def test_steps_that_are_done_change_nothing(service: ServiceFolder) -> None:
    """Activation and retirement may be repeated."""
    service.accept()
    for _ in range(2):
        activate_generation(service.folder, 2)
    for _ in range(2):
        retire_generation(service.folder, 1)
    assert service.states() == [RETIRED, ACTIVE]


def activate_requested(service: ServiceFolder) -> None:
    service.request()
    activate_generation(service.folder, 2)


def activate_older(service: ServiceFolder) -> None:
    service.accept()
    activate_generation(service.folder, 2)
    activate_generation(service.folder, 1)


def retire_requested(service: ServiceFolder) -> None:
    service.request()
    retire_generation(service.folder, 2)


STEPS: dict[str, tuple[Callable[[ServiceFolder], object], type[RolloverError], str]] = {
    "activate_requested": (
        activate_requested,
        GenerationStateError,
        "expected a trusted generation above 1, found 2, requested",
    ),
    "activate_unknown": (
        lambda service: activate_generation(service.folder, 2),
        UnknownGenerationError,
        "expected a generation from 1 to 1, found 2",
    ),
    "activate_older": (
        activate_older,
        GenerationStateError,
        "expected a trusted generation above 2, found 1, trusted",
    ),
    "retire_active": (
        lambda service: retire_generation(service.folder, 1),
        GenerationStateError,
        "expected a superseded generation, found 1, active",
    ),
    "retire_requested": (retire_requested, GenerationStateError, "found 2, requested"),
    "accept_unrequested": (
        lambda service: service.verify(b""),
        GenerationStateError,
        "expected a requested generation, found one that is active",
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_step_out_of_turn_is_refused(service: ServiceFolder, case: str) -> None:
    """And changes nothing."""
    step, error, message = STEPS[case]
    with pytest.raises(error, match=message):
        step(service)


def forged(service: ServiceFolder, **changes: object) -> bytes:
    """What the root would sign if it were asked for something else."""
    key = service.keys.load("issuing-ca-2").public_key
    profile = replace(profiles.issuing_ca("demo", now=LATER), **changes)  # type: ignore[arg-type]
    return chain_pem([service.tree.root.issue(profile, key)])


def self_signed(service: ServiceFolder) -> bytes:
    old = service.authority().certificate
    signer = service.keys.load("issuing-ca-2")
    return chain_pem(
        [
            CertificateAuthority([old], service.keys.load("issuing-ca")).issue(
                profiles.issuing_ca("demo", now=LATER), signer.public_key
            )
        ]
    )


CERTIFICATES: dict[str, tuple[Callable[[ServiceFolder], bytes], str]] = {
    "nothing": (lambda _: b"", "expected a certificate"),
    "other_bytes": (
        lambda _: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "expected a certificate",
    ),
    "two": (lambda service: forged(service) * 2, "expected one certificate alone"),
    "other_key": (lambda service: chain_pem([service.authority().certificate]), "expected the key that was requested"),
    "other_name": (
        lambda service: forged(service, subject=profiles.issuing_ca("other", now=NOW).subject),
        "expected the name of the generation in force",
    ),
    "other_issuer": (self_signed, "expected one by the root"),
    "end_entity": (
        lambda service: forged(service, path_length=None),
        "expected an authority of path length 0",
    ),
    "longer_path": (lambda service: forged(service, path_length=1), "expected an authority of path length 0"),
    "future": (lambda service: forged(service, not_before=LATER + DAY), "expected one that is valid now"),
    "past": (lambda service: forged(service, not_after=LATER), "expected one that is valid now"),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_certificate_that_was_not_asked_for_is_refused(service: ServiceFolder, case: str) -> None:
    """The service trusts what its own root signed for its own key, and that alone."""
    service.request()
    make, message = CERTIFICATES[case]
    with pytest.raises(GenerationCertificateError, match=message):
        service.verify(make(service))
    assert service.states() == [ACTIVE, REQUESTED]


def test_root_signs_for_its_own_catalog_alone(service: ServiceFolder) -> None:
    """The generation that is to be replaced must be one of this root's."""
    number, csr = service.request()
    stranger = Tree()
    with pytest.raises(GenerationCertificateError, match="expected a generation in force by this root"):
        service.sign_after(stranger.issuing.certificate, csr, number)


def test_root_signs_only_after_a_certificate_of_the_operators_records(service: ServiceFolder) -> None:
    """That the root has issued it is not enough: so it has every other certificate, of authorities too."""
    number, csr = service.request()
    package = service.tree.root.issue(profiles.package_signing("demo", now=NOW), service.tree.operational.public_key)
    active = service.authority().certificate
    for other in (package, service.tree.factory.certificate, service.root):
        with pytest.raises(GenerationCertificateError, match="that the operator's records name"):
            service.sign_after(other, csr, number, known=[active])
    with pytest.raises(GenerationCertificateError, match="that is an authority of path length 0"):
        service.sign_after(package, csr, number)
    assert service.sign_after(active, csr, number, known=[active]).subject == active.subject


def test_root_signs_no_other_key_of_the_service(service: ServiceFolder) -> None:
    """The CSR says which key it is for."""
    csr = make_csr(service.keys.load("issuing-ca"), "director")
    with pytest.raises(CsrError, match="expected the common name issuing-ca-2"):
        service.sign_after(service.authority().certificate, csr, 2)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (b"{", "expected active and retired generations"),
        (b'{"active": 3}', "expected an active generation in force, found 3"),
        (b'{"active": 1, "retired": [1]}', "expected an active generation in force, found 1"),
    ],
)
def test_folder_without_an_active_generation_is_refused(service: ServiceFolder, state: bytes, message: str) -> None:
    """The service does not start by guessing."""
    (service.folder / STATE_FILE).write_bytes(state)
    with pytest.raises(GenerationStateError, match=message):
        read_generations(service.folder)


def test_interrupted_acceptance_is_none(service: ServiceFolder) -> None:
    """The certificate is written last; without it the cross certificates say nothing."""
    service.accept()
    (service.folder / "certificates" / "issuing-ca-2.pem").unlink()
    assert service.states() == [ACTIVE, REQUESTED]
    assert cross_certificates(read_generations(service.folder)) == ()
    assert key_role(2) == "issuing-ca-2"
    service.accept()
    assert service.states() == [ACTIVE, TRUSTED]
