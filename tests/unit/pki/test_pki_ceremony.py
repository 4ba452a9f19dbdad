"""The ceremony: what it makes, that it goes on where it stopped, and that it overwrites nothing."""

from pathlib import Path

import pytest
from cryptography import x509

from pki import ceremony, keystore, online
from pki.authority import CertificateAuthority, chain_pem
from pki.catalog import Catalog, encode_catalog, load_catalog
from pki.ceremony import REPOSITORY_COPIES, factory_authority, hold_ceremony, root_authority
from pki.chains import issued_by
from pki.errors import CatalogError, ChainError, CsrError, KeyMissingError, ProfileError
from pki.files import create_file
from pki.keystore import FileKeyStore
from pki.online import issuing_authority, load_certificate, online_keys, request_online_keys
from pki.repository import verify_root, verify_targets
from pki.roles import OfflineKey, OnlineKey
from protocol.signing import SoftwareSigner, tuf_key
from tests.unit.pki.pki_builder import NOW

CEREMONY_FILES = 38

SERVICE_CERTIFICATES = ("root", "factory", "server-ca", "issuing-ca", "server", "ocsp")


class InterruptionError(Exception):
    """Ctrl-C, at a moment of the test's choice."""


def _keys(folder: Path) -> FileKeyStore:
    return FileKeyStore(folder / "operator" / "keys", passphrase=None)


def _hold(folder: Path, *, hostnames: tuple[str, ...] = ()) -> None:
    request_online_keys(folder / "service")
    hold_ceremony(
        folder / "operator",
        folder / "service",
        keys=_keys(folder),
        catalog_name="demo",
        hostnames=hostnames,
        now=NOW,
    )


def _snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_ceremony_makes_everything_that_the_contract_names(tmp_path: Path) -> None:
    """docs/architecture.md, the files of both folders."""
    _hold(tmp_path)
    assert set(_snapshot(tmp_path)) == {
        *(f"operator/keys/{role}.pem" for role in OfflineKey),
        *(f"operator/certificates/{name}.pem" for name in ("root", "factory", "server-ca", "package")),
        *(f"operator/repository/{name}" for name in REPOSITORY_COPIES.values()),
        *(f"service/{kind}/{role}.pem" for kind in ("keys", "csr") for role in OnlineKey),
        *(f"service/certificates/{name}.pem" for name in SERVICE_CERTIFICATES),
        *(f"service/genesis/{name}" for name in REPOSITORY_COPIES),
    }


def test_certificates_form_the_tree(tmp_path: Path) -> None:
    """The root issues the authorities and the package certificate, these the leaves; the server has its names."""
    _hold(tmp_path, hostnames=("fleet.example",))
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


@pytest.mark.parametrize("files_written", range(CEREMONY_FILES))
def test_interrupted_ceremony_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_written: int
) -> None:
    """After any file: the second run keeps what is there, and everything fits together."""
    left = iter(range(files_written))

    def interrupted(path: Path, content: bytes, *, mode: int) -> None:
        if next(left, None) is None:
            raise InterruptionError
        create_file(path, content, mode=mode)

    with monkeypatch.context() as patch:
        for module in (ceremony, online, keystore):
            patch.setattr(module, "create_file", interrupted)
        with pytest.raises(InterruptionError):
            _hold(tmp_path)
    before = _snapshot(tmp_path)
    assert len(before) == files_written
    _hold(tmp_path)
    after = _snapshot(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == CEREMONY_FILES
    root = load_certificate(tmp_path / "operator" / "certificates" / "root.pem")
    assert issued_by(issuing_authority(tmp_path / "service").certificate, root)
    image_root = verify_root((tmp_path / "operator" / "repository" / "1.root.json").read_bytes(), now=NOW)
    assert image_root.roles["targets"].keyids == [
        tuf_key(_keys(tmp_path).load(OfflineKey.IMAGE_TARGETS).public_key).keyid
    ]


def test_service_without_requests_is_refused(tmp_path: Path) -> None:
    """Nothing is signed for a service that has not asked."""
    with pytest.raises(CsrError, match=r"expected the service's request in .*issuing-ca.pem, found: No such file"):
        hold_ceremony(
            tmp_path / "operator",
            tmp_path / "service",
            keys=_keys(tmp_path),
            catalog_name="demo",
            hostnames=(),
            now=NOW,
        )
    assert not (tmp_path / "service").exists()


def test_exchanged_requests_are_refused(tmp_path: Path) -> None:
    """The snapshot key cannot become the Director's by a renamed file."""
    service = tmp_path / "service"
    request_online_keys(service)
    (service / "csr" / "snapshot.pem").replace(service / "csr" / "director.pem")
    with pytest.raises(CsrError, match=r"expected the common name director, found \['snapshot'\]"):
        _hold(tmp_path)


def test_bad_host_name_leaves_the_service_unsigned(tmp_path: Path) -> None:
    """Refused before any certificate of the service is written."""
    with pytest.raises(ProfileError, match="found 'two words'"):
        _hold(tmp_path, hostnames=("two words",))
    assert not (tmp_path / "service" / "certificates").exists()


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
