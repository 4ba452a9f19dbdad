"""What the running service makes of changes in its folder: takes what is whole, and goes on with what it has."""

import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from structlog.testing import capture_logs

from pki.authority import chain_pem, issuer_key_id
from pki.errors import ChainError, CsrError, GenerationStateError
from pki.issuance import certificate_sha256
from pki.rollover import STATE_FILE, accept_generation, activate_generation, retire_generation, sign_generation
from service.adapters.issuing_ca import IssuingCaFolder
from tests.service_folder import Folders, make_folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return make_folders(tmp_path)


@pytest.fixture
def folder(folders: Folders) -> IssuingCaFolder:
    return IssuingCaFolder(folders.service)


def second_generation(folder: IssuingCaFolder, folders: Folders) -> x509.Certificate:
    """Write down a second generation as another process would, and leave the first active."""
    now = folder.active.certificate.not_valid_before_utc.replace(microsecond=0)
    number, csr = folder.request()
    root = folders.root.certificate
    certificate = sign_generation(
        csr,
        number,
        unverified_predecessor=folder.active.certificate,
        known={certificate_sha256(folder.active.certificate)},
        root=root,
        root_signer=folders.keys.load("root"),
        now=now,
    )
    accept_generation(folders.service, folder.verify(chain_pem([certificate]), now=now))
    return certificate


async def test_change_is_taken_over_and_told(folder: IssuingCaFolder, folders: Folders) -> None:
    """Once: a look that finds nothing new tells nobody."""
    heard = list[Sequence[x509.Certificate]]()
    folder.on_change(heard.append)
    first = folder.active.certificate
    second = second_generation(folder, folders)
    await folder.look()
    await folder.look()
    assert heard == [(second, first)]
    assert folder.active.certificate == first
    activate_generation(folders.service, 2)
    await folder.look()
    assert folder.active.certificate == second
    assert len(heard) == 2


async def test_every_trusted_generation_has_its_authority(folder: IssuingCaFolder, folders: Folders) -> None:
    """Each with its own key, so that its list can be signed; a retired one has none."""
    first, second = folder.active.certificate, second_generation(folder, folders)
    await folder.look()
    activate_generation(folders.service, 2)
    await folder.look()
    for certificate in (first, second):
        authority = folder.authority(issuer_key_id(certificate))
        assert authority is not None
        assert authority.certificate == certificate
    retire_generation(folders.service, 1)
    await folder.look()
    assert folder.authority(issuer_key_id(first)) is None


async def test_listener_that_fails_keeps_nothing_from_the_others(folder: IssuingCaFolder, folders: Folders) -> None:
    """OpenSSL may refuse a certificate; the folder is followed all the same."""

    def fails(_trusted: Sequence[x509.Certificate]) -> None:
        raise ssl.SSLError("expected another")

    heard = list[Sequence[x509.Certificate]]()
    folder.on_change(fails)
    folder.on_change(heard.append)
    second_generation(folder, folders)
    with capture_logs() as logs:
        await folder.look()
    assert [entry["event"] for entry in logs] == ["issuing_ca_loaded", "issuing_ca_not_taken_over"]
    assert len(heard) == 1


async def test_key_that_comes_late_is_waited_for(folder: IssuingCaFolder, folders: Folders) -> None:
    """A copy in progress: certificate and state are there before the key; the old generation issues until then."""
    late = IssuingCaFolder(folders.service)  # has read no key but the first
    first, second = folder.active.certificate, second_generation(folder, folders)
    key = folders.service / "keys" / "issuing-ca-2.pem"
    elsewhere = key.rename(folders.operator / "key.pem")
    activate_generation(folders.service, 2)
    with capture_logs() as logs:
        for _ in range(3):
            await late.look()
    assert [entry["event"] for entry in logs] == ["issuing_ca_unusable"]
    assert late.active.certificate == first
    elsewhere.rename(key)
    await late.look()
    assert late.active.certificate == second


@pytest.mark.parametrize(
    ("name", "error"),
    [
        (STATE_FILE, GenerationStateError),
        ("certificates/issuing-ca.pem", ChainError),
        ("csr/director.pem", CsrError),
    ],
)
async def test_file_that_makes_no_sense_changes_nothing_and_does_not_start(
    folder: IssuingCaFolder, folders: Folders, name: str, error: type[Exception]
) -> None:
    """The running service goes on; one that starts says what is wrong."""
    before = (folder.active, folder.trusted, folder.reserved_keys)
    (folders.service / name).write_text("nonsense")
    (folders.service / "certificates" / "issuing-ca.pem").touch()
    await folder.look()
    assert (folder.active, folder.trusted, folder.reserved_keys) == before
    with pytest.raises(error):
        IssuingCaFolder(folders.service)


async def test_keys_of_the_folder_are_reserved(folder: IssuingCaFolder) -> None:
    """Authorities', the service's own, and the next generation's as soon as it is requested."""
    before = folder.reserved_keys
    assert len(before) >= 9
    folder.request()
    await folder.look()
    assert len(folder.reserved_keys - before) == 1
