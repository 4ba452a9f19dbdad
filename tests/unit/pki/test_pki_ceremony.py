"""The ceremony: what it makes, that it goes on where it stopped, and that it overwrites nothing."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from pki import ceremony_steps, keystore, online, profiles, transcript
from pki.authority import CertificateAuthority, chain_pem, issuer_key_id, publish_url_in, self_signed_root
from pki.catalog import Catalog, encode_catalog, load_catalog
from pki.ceremony import Journal, factory_authority, hold_ceremony, root_authority
from pki.ceremony_certificates import key_sha256
from pki.ceremony_check import check_ceremony
from pki.ceremony_declaration import Declaration, DeclarationFile, parse_declaration, usual_declaration
from pki.ceremony_steps import REPOSITORY_COPIES
from pki.chains import issued_by
from pki.csr import make_csr
from pki.errors import CatalogError, CeremonyError, ChainError, CsrError, KeyMissingError
from pki.files import create_file
from pki.keystore import FileKeyStore
from pki.online import issuing_authority, load_certificate, online_keys, request_online_keys, requested_key
from pki.profiles import CLOCK_SKEW
from pki.repository import verify_root, verify_targets
from pki.roles import OfflineKey, OnlineKey
from pki.stores import KeyStores
from pki.transcript import Made, StepKind, with_step
from protocol.document import canonical_json, parse_document
from protocol.signing import SoftwareSigner, tuf_key
from tests.earlier_folder import hold_as_version_0_1
from tests.unit.pki.pki_builder import NOW

CREATED_FILES = 43  # keys, requests, certificates, declaration, first metadata and lists, copies, transcript
SERVICE_CERTIFICATES = ("root", "factory", "server-ca", "issuing-ca", "server", "ocsp")


class InterruptionError(Exception):
    """Ctrl-C, at a moment of the test's choice."""


def _keys(folder: Path) -> KeyStores:
    return KeyStores(FileKeyStore(folder / "operator" / "keys", passphrase=None))


def _declared(*hostnames: str) -> DeclarationFile:
    return usual_declaration("demo", participants=["Ada"], hostnames=hostnames)


def _assent(number: int, count: int, text: str) -> None:
    assert 0 < number <= count
    assert text


def _hold(folder: Path, declared: DeclarationFile | None = None, *, adopt: bool = False) -> None:
    request_online_keys(folder / "service")
    hold_ceremony(folder, declared or _declared(), keys=_keys(folder), clock=lambda: NOW, confirm=_assent, adopt=adopt)


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ceremony_makes_everything_that_the_contract_names(tmp_path: Path) -> None:
    """docs/architecture.md, the files of both folders."""
    _hold(tmp_path)
    assert set(_snapshot(tmp_path)) == {
        *(f"operator/keys/{role}.pem" for role in OfflineKey),
        "service/keys/log.key",
        "service/csr/log.note",
        *(f"operator/certificates/{name}.pem" for name in ("root", "factory", "server-ca", "package")),
        *(f"operator/repository/{name}" for name in REPOSITORY_COPIES.values()),
        *(f"operator/ceremony/{name}" for name in ("declaration.yaml", "0001.json")),
        "operator/issuance.jsonl",
        *(f"service/{kind}/{role}.pem" for kind in ("keys", "csr") for role in OnlineKey),
        *(f"service/certificates/{name}.pem" for name in SERVICE_CERTIFICATES),
        *(f"service/genesis/{name}" for name in REPOSITORY_COPIES),
        *(f"service/genesis/{role}.crl" for role in ("root", "factory", "server-ca")),
    }


def test_certificates_form_the_tree(tmp_path: Path) -> None:
    """The root issues the authorities and the package certificate, these the leaves; the server has its names."""
    _hold(tmp_path, _declared("fleet.example"))
    certificates = tmp_path / "service" / "certificates"
    loaded = {name: load_certificate(certificates / f"{name}.pem") for name in SERVICE_CERTIFICATES}
    root = loaded["root"]
    for name in ("factory", "issuing-ca", "server-ca"):
        assert issued_by(loaded[name], root)
    assert issued_by(loaded["server"], loaded["server-ca"])
    assert issued_by(loaded["ocsp"], loaded["factory"])
    assert issued_by(load_certificate(tmp_path / "operator" / "certificates" / "package.pem"), root)
    names = load_certificate(certificates / "server.pem").extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.DNSName) == ["localhost", "fleet.example"]
    assert issuing_authority(tmp_path / "service").certificate == load_certificate(certificates / "issuing-ca.pem")
    assert factory_authority(tmp_path / "operator", _keys(tmp_path)).certificate == load_certificate(
        certificates / "factory.pem"
    )
    assert root_authority(tmp_path / "operator", _keys(tmp_path)).certificate == root


def test_genesis_delegates_to_the_keys_of_the_roles(tmp_path: Path) -> None:
    """Director: one online key for three roles; Image repository: offline targets, online snapshot and timestamp."""
    _hold(tmp_path)
    genesis, offline, service = tmp_path / "service" / "genesis", _keys(tmp_path), online_keys(tmp_path / "service")
    director = verify_root((genesis / "director.root.json").read_bytes(), now=NOW)
    image = verify_root((genesis / "image.root.json").read_bytes(), now=NOW)
    director_key = tuf_key(service.load(OnlineKey.DIRECTOR).public_key).keyid
    assert {role: director.roles[role].keyids for role in ("timestamp", "snapshot", "targets")} == {
        "timestamp": [director_key], "snapshot": [director_key], "targets": [director_key],
    }  # fmt: skip
    expected = {
        "root": offline.load(OfflineKey.ROOT),
        "targets": offline.load(OfflineKey.IMAGE_TARGETS),
        "snapshot": service.load(OnlineKey.SNAPSHOT),
        "timestamp": service.load(OnlineKey.TIMESTAMP),
    }
    assert {role: image.roles[role].keyids for role in expected} == {
        role: [tuf_key(signer.public_key).keyid] for role, signer in expected.items()
    }
    targets = verify_targets((genesis / "image.targets.json").read_bytes(), root=image, now=NOW, version=1)
    assert targets.targets == {}


def test_catalog_names_whose_signatures_count(tmp_path: Path) -> None:
    """Public keys of packages, system images and golden vectors."""
    _hold(tmp_path)
    catalog, keys = load_catalog(tmp_path / "service" / "genesis" / "catalog.json"), _keys(tmp_path)
    assert catalog.name == "demo"
    assert catalog.package_keys == [keys.load(OfflineKey.PACKAGE).public_key]
    assert catalog.system_keys == [keys.load(OfflineKey.ROM).public_key]
    assert catalog.golden_keys == [keys.load(OfflineKey.GOLDEN).public_key]


def test_second_ceremony_changes_nothing(tmp_path: Path) -> None:
    """No key, certificate or metadata is overwritten."""
    _hold(tmp_path)
    before = _snapshot(tmp_path)
    _hold(tmp_path)
    assert _snapshot(tmp_path) == before


def test_ceremony_interrupted_at_every_file_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any file is written: the next run keeps what is there, and in the end everything fits together."""
    finished, interruptions = False, 0
    while not finished:
        left = iter(range(1))

        def interrupted(path: Path, content: bytes, *, mode: int, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise InterruptionError
            create_file(path, content, mode=mode)

        before = _snapshot(tmp_path)
        with monkeypatch.context() as patch:
            for module in (ceremony_steps, keystore, online, transcript):
                patch.setattr(module, "create_file", interrupted)
            with suppress(InterruptionError):
                _hold(tmp_path)
                finished = True
        interruptions += not finished
        after = _snapshot(tmp_path)
        growing = ("operator/issuance.jsonl", "operator/ceremony/journal.json")
        assert {name: after[name] for name in before if name not in growing} == {
            name: content for name, content in before.items() if name not in growing
        }
    assert interruptions == CREATED_FILES - 1
    assert check_ceremony(tmp_path, keys=_keys(tmp_path)).findings == []
    image_root = verify_root((tmp_path / "operator" / "repository" / "1.root.json").read_bytes(), now=NOW)
    assert image_root.roles["targets"].keyids == [
        tuf_key(_keys(tmp_path).load(OfflineKey.IMAGE_TARGETS).public_key).keyid
    ]


def test_every_certificate_dates_from_the_beginning_of_the_ceremony(tmp_path: Path) -> None:
    """However long an interruption lasts, nothing outlives what issues it."""
    request_online_keys(tmp_path / "service")
    days = iter(range(1000))

    def stop(number: int, count: int, text: str) -> None:
        if number == count:
            raise InterruptionError(text)

    for confirm in (stop, _assent):
        with suppress(InterruptionError):
            hold_ceremony(
                tmp_path,
                _declared(),
                keys=_keys(tmp_path),
                clock=lambda: NOW + timedelta(days=next(days)),
                confirm=confirm,
            )
    begins = {
        load_certificate(path).not_valid_before_utc
        for folder in ("operator", "service")
        for path in (tmp_path / folder / "certificates").iterdir()
    }
    assert begins == {NOW - CLOCK_SKEW}
    assert check_ceremony(tmp_path, keys=None).findings == []


def test_service_without_requests_is_refused(tmp_path: Path) -> None:
    """Nothing is made for a service that has not asked."""
    with pytest.raises(CsrError, match=r"expected the service's request in .*issuing-ca.pem, found: No such file"):
        hold_ceremony(tmp_path, _declared(), keys=_keys(tmp_path), clock=lambda: NOW, confirm=_assent)
    assert _snapshot(tmp_path) == {}


def test_folder_is_not_bound_to_a_declaration_that_cannot_be_performed(tmp_path: Path) -> None:
    """Every certificate is planned before the journal begins, so the next declaration is taken."""
    request_online_keys(tmp_path / "service")
    impossible = DeclarationFile(b"unchecked", Declaration(catalog="c" * 60, participants=("Ada",)))
    before = _snapshot(tmp_path)
    with pytest.raises(ValueError, match="Attribute's length"):
        _hold(tmp_path, impossible)
    assert _snapshot(tmp_path) == before
    _hold(tmp_path)


def test_steps_show_the_keys_of_the_requests(tmp_path: Path) -> None:
    """For comparison with what the service's machine showed."""
    texts: list[str] = []
    request_online_keys(tmp_path / "service")
    hold_ceremony(
        tmp_path, _declared(), keys=_keys(tmp_path), clock=lambda: NOW, confirm=lambda _n, _c, text: texts.append(text)
    )
    for role in OnlineKey:
        shown = key_sha256(requested_key(tmp_path / "service", role))
        assert f"request of the service for its key {role}, SHA-256 {shown}" in texts


def _exchange_request(folder: Path) -> None:
    signer = SoftwareSigner.generate()
    (folder / "service" / "csr" / "server.pem").write_bytes(make_csr(signer, "server"))


def test_request_that_was_exchanged_after_it_was_shown_is_refused(tmp_path: Path) -> None:
    """Who confirmed the step saw another key."""
    request_online_keys(tmp_path / "service")

    def exchange(_number: int, _count: int, text: str) -> None:
        if "for its key server" in text:
            _exchange_request(tmp_path)

    with pytest.raises(CeremonyError, match=r"service/csr/server.pem: expected the request that was shown, found"):
        hold_ceremony(tmp_path, _declared(), keys=_keys(tmp_path), clock=lambda: NOW, confirm=exchange)
    assert not (tmp_path / "service" / "certificates" / "server.pem").exists()


def test_request_that_was_exchanged_during_an_interruption_is_refused(tmp_path: Path) -> None:
    """Its certificate would be of a key that nobody confirmed."""
    _interrupt(tmp_path, at=23)
    _exchange_request(tmp_path)
    before = _snapshot(tmp_path)
    with pytest.raises(CeremonyError, match=r"server.pem: expected the request that the ceremony took, found another"):
        _hold(tmp_path)
    assert _snapshot(tmp_path) == before


def test_another_declaration_is_refused(tmp_path: Path) -> None:
    """While the ceremony is interrupted, and after it."""
    request_online_keys(tmp_path / "service")

    def stop(number: int, _count: int, text: str) -> None:
        if number == 12:
            raise InterruptionError(text)

    with pytest.raises(InterruptionError):
        hold_ceremony(tmp_path, _declared(), keys=_keys(tmp_path), clock=lambda: NOW, confirm=stop)
    before = _snapshot(tmp_path)
    with pytest.raises(CeremonyError, match="expected the one of this folder's ceremony"):
        _hold(tmp_path, _declared("other.example"))
    assert _snapshot(tmp_path) == before
    _hold(tmp_path)
    with pytest.raises(CeremonyError, match="expected the one of this folder's ceremony"):
        _hold(tmp_path, _declared("other.example"))


def test_declaration_left_by_a_run_before_its_journal_is_compared(tmp_path: Path) -> None:
    """The copy of another declaration is not taken for this one's."""
    _hold(tmp_path)
    folder = tmp_path / "operator" / "ceremony"
    (folder / "0001.json").unlink()
    with pytest.raises(CeremonyError, match=r"declaration.yaml: expected the declaration that the ceremony began with"):
        _hold(tmp_path, _declared("other.example"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:-1], "expected the journal of an interrupted ceremony, found: Journal"),
        (lambda text: text.replace('"number":3', '"number":4'), "expected step 3 after .*, found step 4"),
        (lambda text: text.replace("operator/ceremony/declaration.yaml", "x"), "expected step 2 after"),
    ],
)
def test_damaged_journal_is_refused(tmp_path: Path, damage: Callable[[str], str], message: str) -> None:
    """What was done is not guessed."""
    _interrupt(tmp_path, at=5)
    journal = tmp_path / "operator" / "ceremony" / "journal.json"
    journal.write_text(damage(journal.read_text()))
    with pytest.raises(CeremonyError, match=message):
        _hold(tmp_path)


def test_journal_of_other_steps_is_refused(tmp_path: Path) -> None:
    """Of a version whose ceremony makes other things."""
    _interrupt(tmp_path, at=2)
    path = tmp_path / "operator" / "ceremony" / "journal.json"
    journal = parse_document(path.read_bytes(), Journal)
    strange = with_step((), Made(StepKind.KEY, "strange", "0" * 64), at=NOW)
    path.write_bytes(canonical_json(journal.model_copy(update={"steps": strange})))
    with pytest.raises(CeremonyError, match="journal: expected the first steps of this declaration, found others"):
        _hold(tmp_path)


def test_what_was_exchanged_during_an_interruption_is_not_signed(tmp_path: Path) -> None:
    """A step's digest was noted when it was done."""
    _interrupt(tmp_path, at=15)
    other = _other_root(tmp_path / "other")
    (tmp_path / "operator" / "certificates" / "root.pem").write_bytes(other)
    with pytest.raises((CeremonyError, ChainError)):
        _hold(tmp_path)
    assert not (tmp_path / "operator" / "ceremony" / "0001.json").exists()


def test_key_that_was_exchanged_during_an_interruption_is_refused(tmp_path: Path) -> None:
    """Before anything else is made."""
    _interrupt(tmp_path, at=5)
    (tmp_path / "operator" / "keys" / "root.pem").unlink()
    _keys(tmp_path).generate(OfflineKey.ROOT)
    before = _snapshot(tmp_path)
    with pytest.raises(CeremonyError, match="key root: expected the one that the ceremony made, found another"):
        _hold(tmp_path)
    assert _snapshot(tmp_path) == before


def test_finished_ceremony_that_was_changed_is_not_taken_for_done(tmp_path: Path) -> None:
    """Run again: it says what is not as it was."""
    _hold(tmp_path)
    (tmp_path / "service" / "genesis" / "catalog.json").unlink()
    with pytest.raises(
        CeremonyError, match=r"found 1 differences: service/genesis/catalog.json: expected the metadata"
    ):
        _hold(tmp_path)


def test_certificate_of_a_stranger_is_not_adopted_unasked(tmp_path: Path) -> None:
    """A file that lies there before the ceremony is refused; nothing is overwritten."""
    folder = tmp_path / "operator" / "certificates"
    folder.mkdir(parents=True)
    (folder / "root.pem").write_bytes(_other_root(tmp_path / "other"))
    with pytest.raises(CeremonyError, match=r"root.pem: key: expected that of root, found another"):
        _hold(tmp_path)


def test_certificate_with_another_type_of_key_is_not_taken(tmp_path: Path) -> None:
    """Not even where the ceremony adopts what is there."""
    folder, key = tmp_path / "operator" / "certificates", rsa.generate_private_key(65537, 2048)
    folder.mkdir(parents=True)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([])).serial_number(1)
    builder = builder.public_key(key.public_key()).not_valid_before(NOW).not_valid_after(NOW)
    (folder / "root.pem").write_bytes(chain_pem([builder.sign(key, hashes.SHA256())]))
    with pytest.raises(CeremonyError, match=r"root.pem: key: expected that of root, found another"):
        _hold(tmp_path)
    with pytest.raises(ChainError, match="authority: expected the private key of its certificate, found another"):
        _hold(tmp_path, adopt=True)


def test_copy_that_is_another_certificate_is_refused(tmp_path: Path) -> None:
    """The service trusts what the operator holds, or nothing."""
    folder = tmp_path / "service" / "certificates"
    folder.mkdir(parents=True)
    (folder / "root.pem").write_bytes(_other_root(tmp_path / "other"))
    with pytest.raises(CeremonyError, match=r"service/certificates/root.pem: expected the same as operator/"):
        _hold(tmp_path)


def test_folder_of_an_earlier_version_is_adopted_on_request(tmp_path: Path) -> None:
    """Its certificates stay as they are and are marked; what it lacks is made."""
    hold_as_version_0_1(tmp_path, _keys(tmp_path), now=NOW - timedelta(days=100))
    before = _snapshot(tmp_path)
    with pytest.raises(CeremonyError, match=r"root.pem: .*; with --adopt the ceremony takes it as it is"):
        _hold(tmp_path)
    _hold(tmp_path, adopt=True)
    after = _snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    checked = check_ceremony(tmp_path, keys=_keys(tmp_path))
    assert checked.findings == []
    assert {step.name for step in checked.transcripts[0].steps if step.adopted} == {
        *(f"operator/certificates/{name}.pem" for name in ("root", "factory")),
        *(f"service/certificates/{name}.pem" for name in ("root", "factory", "issuing-ca", "server")),
    }
    assert issued_by(
        load_certificate(tmp_path / "operator" / "certificates" / "server-ca.pem"),
        load_certificate(tmp_path / "operator" / "certificates" / "root.pem"),
    )


def test_adopted_certificate_of_a_stranger_is_refused(tmp_path: Path) -> None:
    """Adopting asks for the recorded key and the root's signature."""
    hold_as_version_0_1(tmp_path, _keys(tmp_path), now=NOW - timedelta(days=100))
    (tmp_path / "service" / "certificates" / "server.pem").write_bytes(_other_root(tmp_path / "other"))
    with pytest.raises(CeremonyError, match=r"server.pem: expected the recorded key of server.*server.pem: issuer: "):
        _hold(tmp_path, adopt=True)


def test_declared_key_store_must_be_the_one_of_keys_toml(tmp_path: Path) -> None:
    """A root that should be in a token is not made as a file."""
    declared = parse_declaration(b"catalog: demo\nparticipants: [Ada]\nkey_stores: {rom: file, root: hsm}\n")
    with pytest.raises(
        CeremonyError, match=r"key_stores.root: expected store 'hsm' in operator/keys.toml, found 'file'"
    ):
        _hold(tmp_path, declared)
    assert not (tmp_path / "operator").exists()


def test_certificates_say_where_revocations_are_published(tmp_path: Path) -> None:
    """Below the declared URL, and so do those that the authorities issue later."""
    _hold(tmp_path, parse_declaration(b"catalog: demo\nparticipants: [Ada]\npublish_url: http://fleet.example\n"))
    certificates, keys = tmp_path / "operator" / "certificates", _keys(tmp_path)
    root = load_certificate(certificates / "root.pem")
    for authority in (factory_authority(tmp_path / "operator", keys), root_authority(tmp_path / "operator", keys)):
        assert authority.publish_url == "http://fleet.example"
    points = load_certificate(certificates / "factory.pem").extensions.get_extension_for_class(
        x509.CRLDistributionPoints
    )
    assert [name.value for point in points.value for name in point.full_name or ()] == [
        f"http://fleet.example/pki/crl/{issuer_key_id(root)}.crl"
    ]
    assert publish_url_in(root) is None


def _interrupt(folder: Path, *, at: int) -> None:
    def stop(number: int, _count: int, text: str) -> None:
        if number == at:
            raise InterruptionError(text)

    request_online_keys(folder / "service")
    with pytest.raises(InterruptionError):
        hold_ceremony(folder, _declared(), keys=_keys(folder), clock=lambda: NOW, confirm=stop)


def _other_root(folder: Path) -> bytes:
    root = self_signed_root(profiles.root_ca("demo", now=NOW), SoftwareSigner.generate())
    assert not folder.exists()
    return chain_pem([root.certificate])


def test_exchanged_requests_are_refused(tmp_path: Path) -> None:
    """The snapshot key cannot become the Director's by a renamed file."""
    service = tmp_path / "service"
    request_online_keys(service)
    (service / "csr" / "snapshot.pem").replace(service / "csr" / "director.pem")
    with pytest.raises(CsrError, match=r"expected the common name director, found \['snapshot'\]"):
        _hold(tmp_path)


def test_request_that_came_alone_gets_no_key(tmp_path: Path) -> None:
    """On the operator's machine: a CSR whose key stayed with the service is left alone."""
    service = tmp_path / "service"
    request_online_keys(service)
    key = service / "keys" / "server.pem"
    key.unlink()
    request_online_keys(service)
    assert not key.exists()


def test_request_is_made_for_a_key_that_is_there(tmp_path: Path) -> None:
    """Interrupted between key and CSR: the key stays."""
    service = tmp_path / "service"
    signer = online_keys(service).generate(OnlineKey.SERVER)
    request_online_keys(service)
    assert online_keys(service).load(OnlineKey.SERVER).public_key == signer.public_key
    assert (service / "csr" / "server.pem").exists()


def test_missing_certificate_is_named(tmp_path: Path) -> None:
    """A service before its ceremony says which file it lacks."""
    with pytest.raises(ChainError, match=r"certificate: expected .*issuing-ca.pem, found: No such file"):
        issuing_authority(tmp_path)


def test_certificate_of_another_key_is_refused(tmp_path: Path) -> None:
    """A restored backup that mixes two services."""
    _hold(tmp_path)
    service = tmp_path / "service"
    (service / "keys" / "issuing-ca.pem").unlink()
    with pytest.raises(KeyMissingError, match="key issuing-ca"):
        issuing_authority(service)
    online_keys(service).generate(OnlineKey.ISSUING_CA)
    with pytest.raises(ChainError, match="expected the private key of its certificate"):
        issuing_authority(service)


def test_missing_and_malformed_catalogs_are_refused(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(CatalogError, match=r"catalog: expected .*catalog.json of the ceremony, found: No such file"):
        load_catalog(tmp_path / "catalog.json")
    (tmp_path / "catalog.json").write_bytes(b'{"id": "x"}')
    with pytest.raises(CatalogError, match="as the ceremony writes it"):
        load_catalog(tmp_path / "catalog.json")


def test_catalog_survives_writing_and_reading(tmp_path: Path) -> None:
    """Any number of keys."""
    keys = [SoftwareSigner.generate().public_key for _ in range(3)]
    catalog = Catalog("253ee667-88ae-4f55-acf6-2cdaa9ca15bc", "Ångström", keys[:2], keys[2:], [])
    (tmp_path / "catalog.json").write_bytes(encode_catalog(catalog))
    assert load_catalog(tmp_path / "catalog.json") == catalog


def test_chain_file_of_the_service_is_what_tls_sends(tmp_path: Path) -> None:
    """Leaf, then the server CA; who connects has the root."""
    _hold(tmp_path)
    certificates = tmp_path / "service" / "certificates"
    chain = [load_certificate(certificates / f"{name}.pem") for name in ("server", "server-ca")]
    assert chain_pem(chain) == (certificates / "server.pem").read_bytes()
    assert isinstance(issuing_authority(tmp_path / "service"), CertificateAuthority)
