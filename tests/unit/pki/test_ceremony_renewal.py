"""After the ceremony: the service asks again, the operator answers, and transcripts tell of it."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from pki import ceremony_renewal, profiles
from pki.authority import CertificateAuthority, chain_pem, self_signed_root
from pki.ceremony_check import check_ceremony
from pki.ceremony_renewal import issue_again, known_issuing_cas, tell_of_issuing_ca
from pki.chains import issued_by
from pki.csr import make_csr
from pki.errors import CeremonyError, CsrError, EarlierFolderError, TranscriptError
from pki.issuance import certificate_sha256, read_file
from pki.online import (
    generations,
    in_force,
    load_certificate,
    online_keys,
    refuse_earlier_folder,
    request_again,
)
from pki.roles import OfflineKey, OnlineKey
from pki.rollover import accept_generation, sign_generation, verify_generation
from protocol.signing import SoftwareSigner
from tests.unit.pki.held_ceremony_folder import held_ceremony, keys_of
from tests.unit.pki.pki_builder import NOW

LATER = NOW + timedelta(days=700)


class KilledError(Exception):
    """The process ends here."""


@pytest.mark.parametrize(("role", "issuer"), [(OnlineKey.SERVER, "server-ca"), (OnlineKey.OCSP, "factory")])
def test_renewed_certificate_is_of_a_new_key_and_in_force(tmp_path: Path, role: OnlineKey, issuer: str) -> None:
    """The one before stays; the check knows the new one, and the log has it."""
    folder = held_ceremony(tmp_path)
    service = folder / "service"
    assert in_force(service, role) == role
    name = request_again(service, role)
    assert (name, request_again(service, role), in_force(service, role)) == (f"{role}-2", f"{role}-2", role)
    path = issue_again(folder, role, keys=keys_of(folder), now=LATER)
    assert (path, in_force(service, role)) == (service / "certificates" / f"{role}-2.pem", name)
    first, second = (load_certificate(service / "certificates" / f"{each}.pem") for each in (role, name))
    assert second.public_key() == online_keys(service).load(name).public_key != first.public_key()
    assert second.not_valid_after_utc == LATER + timedelta(days=730)
    assert second.subject == first.subject
    assert issued_by(second, load_certificate(folder / "operator" / "certificates" / f"{issuer}.pem"))
    checked = check_ceremony(folder, keys=keys_of(folder))
    assert (checked.findings, len(checked.transcripts)) == ([], 2)
    last = list(read_file(folder / "operator" / "issuance.jsonl"))[-1]
    assert (last.facts.kind, last.facts.serial) == (role.value, f"{second.serial_number:x}")
    assert request_again(service, role) == f"{role}-3"


def test_nothing_is_issued_without_a_request(tmp_path: Path) -> None:
    """The first certificate answered the first request."""
    folder = held_ceremony(tmp_path)
    with pytest.raises(CeremonyError, match="server: expected a request that waits for its certificate, found none"):
        issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=LATER)
    (folder / "service" / "csr" / "server.pem").unlink()
    with pytest.raises(CeremonyError, match="expected a request that waits"):
        issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=LATER)


def test_renewal_killed_before_its_transcript_is_finished_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate that is there is told of, not issued again."""
    folder = held_ceremony(tmp_path)
    request_again(folder / "service", OnlineKey.SERVER)

    def killed(*_: object, **__: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(ceremony_renewal, "add_transcript", killed)
        with pytest.raises(KilledError):
            issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=LATER)
    path = folder / "service" / "certificates" / "server-2.pem"
    before = path.read_bytes()
    assert check_ceremony(folder, keys=None).findings == [
        "service/certificates/server-2.pem: expected no certificate that no transcript names, found one"
    ]
    issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=LATER + timedelta(days=1))
    assert path.read_bytes() == before
    assert check_ceremony(folder, keys=None).findings == []


def test_certificate_laid_there_by_a_stranger_is_not_told_of(tmp_path: Path) -> None:
    """It is not of the server CA."""
    folder = held_ceremony(tmp_path)
    request_again(folder / "service", OnlineKey.SERVER)
    path = folder / "service" / "certificates" / "server-2.pem"
    authority = self_signed_root(profiles.root_ca("other", now=NOW), SoftwareSigner.generate())
    requested = online_keys(folder / "service").load("server-2").public_key
    profile = profiles.server(("localhost",), now=LATER)
    path.write_bytes(chain_pem([authority.issue(profile, requested)]))
    with pytest.raises(CeremonyError, match=r"server-2.pem: issuer: expected a signature by CN=demo server issuer"):
        issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=LATER)


def test_certificate_of_another_key_than_the_request_s_is_not_told_of(tmp_path: Path) -> None:
    """By the server CA and as declared, but who holds its key has not asked: a copy of the first server's."""
    folder = held_ceremony(tmp_path)
    request_again(folder / "service", OnlineKey.SERVER)
    certificates = folder / "service" / "certificates"
    (certificates / "server-2.pem").write_bytes((certificates / "server.pem").read_bytes())
    with pytest.raises(CeremonyError, match=r"server-2.pem: key: expected that of the request, found another"):
        issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=LATER)
    assert len(check_ceremony(folder, keys=None).transcripts) == 1


def test_certificate_that_would_outlive_its_issuer_is_refused(tmp_path: Path) -> None:
    """The server CA ends after thirty years."""
    folder = held_ceremony(tmp_path)
    request_again(folder / "service", OnlineKey.SERVER)
    with pytest.raises(CeremonyError, match="server-2: expected to end before server-ca does, 2056-02-22, found 2057"):
        issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=NOW + timedelta(days=29 * 365))


def test_renamed_request_is_refused(tmp_path: Path) -> None:
    """The responder's request cannot become the server's."""
    folder = held_ceremony(tmp_path)
    csr = folder / "service" / "csr"
    request_again(folder / "service", OnlineKey.OCSP)
    (csr / "ocsp-2.pem").replace(csr / "server-2.pem")
    with pytest.raises(CsrError, match=r"expected the common name server-2, found \['ocsp-2'\]"):
        issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=LATER)


def test_changed_transcripts_stop_a_renewal(tmp_path: Path) -> None:
    """Nothing is added to a chain that is broken."""
    folder = held_ceremony(tmp_path)
    request_again(folder / "service", OnlineKey.SERVER)
    path = folder / "operator" / "ceremony" / "0001.json"
    path.write_bytes(path.read_bytes().replace(b"payload", b"paylaod"))
    with pytest.raises(TranscriptError, match=r"0001.json: expected a transcript signed by root"):
        issue_again(folder, OnlineKey.SERVER, keys=keys_of(folder), now=LATER)
    assert not (folder / "service" / "certificates" / "server-2.pem").exists()


def _roll_over(folder: Path) -> None:
    """As `tinyfleet pki rollover issuing-ca` does, on both sides."""
    service, operator, keys = folder / "service", folder / "operator", online_keys(folder / "service")
    csr = make_csr(keys.generate("issuing-ca-2"), "issuing-ca-2")
    (service / "csr" / "issuing-ca-2.pem").write_bytes(csr)
    (operator / "csr").mkdir()
    (operator / "csr" / "issuing-ca-2.pem").write_bytes(csr)
    root = load_certificate(operator / "certificates" / "root.pem")
    certificate = sign_generation(
        csr,
        2,
        unverified_predecessor=load_certificate(service / "certificates" / "issuing-ca.pem"),
        known=known_issuing_cas(operator),
        root=root,
        root_signer=keys_of(folder).load(OfflineKey.ROOT),
        now=LATER,
    )
    (operator / "certificates" / "issuing-ca-2.pem").write_bytes(chain_pem([certificate]))
    unverified = chain_pem([certificate])
    accept_generation(service, verify_generation(service, unverified, keys=keys, root=root, now=LATER))


def test_rollover_of_the_issuing_ca_is_told_of(tmp_path: Path) -> None:
    """The new generation as the root signed it, and the cross certificates of both."""
    folder = held_ceremony(tmp_path)
    _roll_over(folder)
    assert len(check_ceremony(folder, keys=None).findings) == 4
    for _ in "ab":
        tell_of_issuing_ca(folder / "operator", "issuing-ca-2", keys=keys_of(folder), now=LATER)
    checked = check_ceremony(folder, keys=keys_of(folder))
    assert (checked.findings, len(checked.transcripts)) == ([], 2)


def _replace_second_issuing_ca(folder: Path, profile: profiles.Profile) -> None:
    """As whoever had the root's key could, before the transcript tells of it."""
    root, signer = folder / "operator" / "certificates" / "root.pem", keys_of(folder).load(OfflineKey.ROOT)
    authority = CertificateAuthority([load_certificate(root)], signer, publish_url="http://fleet.example")
    key = online_keys(folder / "service").load("issuing-ca-2").public_key
    (folder / "operator" / "certificates" / "issuing-ca-2.pem").write_bytes(chain_pem([authority.issue(profile, key)]))
    tell_of_issuing_ca(folder / "operator", "issuing-ca-2", keys=keys_of(folder), now=LATER)


@pytest.mark.parametrize(
    ("begins", "lifetime", "message"),
    [
        (timedelta(0), timedelta(days=1), "end: expected 2033-01-28 12:00:00.00:00, found 2033-01-29"),
        (timedelta(days=9), timedelta(0), "begin: expected 2028-01-30 11:55:00.00:00, found 2028-02-08"),
    ],
)
def test_rollover_beyond_the_declared_life_is_named(
    tmp_path: Path, begins: timedelta, lifetime: timedelta, message: str
) -> None:
    """Too long, or beginning after its transcript: a certificate's own dates do not count."""
    folder = held_ceremony(tmp_path)
    _roll_over(folder)
    lifetime += profiles.ISSUING_CA_LIFETIME
    profile = profiles.authority(
        "demo LDevID issuer", path_length=0, now=LATER + begins, lifetime=lifetime, constraints=profiles.NO_HOST
    )
    _replace_second_issuing_ca(folder, profile)
    found = "; ".join(check_ceremony(folder, keys=None).findings)
    assert re.search(f"operator/certificates/issuing-ca-2.pem: {message}", found), found


def test_rollover_may_be_shorter_than_declared(tmp_path: Path) -> None:
    """As near the root's end, which it may not outlive."""
    folder = held_ceremony(tmp_path)
    _roll_over(folder)
    profile = profiles.authority(
        "demo LDevID issuer", path_length=0, now=LATER, lifetime=timedelta(days=9), constraints=profiles.NO_HOST
    )
    _replace_second_issuing_ca(folder, profile)
    copy = folder / "service" / "certificates"
    for name in ("issuing-ca-2", "issuing-ca-2-by-1", "issuing-ca-1-by-2"):
        (copy / f"{name}.pem").unlink()
    assert check_ceremony(folder, keys=None).findings == []


def test_transcripts_name_every_issuing_ca_and_nothing_else(tmp_path: Path) -> None:
    """Of the ceremony and of rollovers; without a transcript nothing is known."""
    folder = held_ceremony(tmp_path)
    _roll_over(folder)
    tell_of_issuing_ca(folder / "operator", "issuing-ca-2", keys=keys_of(folder), now=LATER)
    files = (folder / "service" / "certificates" / f"issuing-ca{number}.pem" for number in ("", "-2"))
    assert known_issuing_cas(folder / "operator") == {certificate_sha256(load_certificate(path)) for path in files}
    for path in (folder / "operator" / "ceremony").glob("0*.json"):
        path.unlink()
    with pytest.raises(TranscriptError, match=r"expected that of the ceremony in .*, found none; .*--adopt"):
        known_issuing_cas(folder / "operator")


@pytest.mark.parametrize("name", ["issuing-ca-2-by-1", "issuing-ca-1-by-2", "issuing-ca-2-by-3"])
def test_cross_certificate_of_a_stranger_is_named(tmp_path: Path, name: str) -> None:
    """Its name alone lets nothing in, nor do bytes that are no certificate."""
    folder = held_ceremony(tmp_path)
    _roll_over(folder)
    tell_of_issuing_ca(folder / "operator", "issuing-ca-2", keys=keys_of(folder), now=LATER)
    path = folder / "service" / "certificates" / f"{name}.pem"
    for content in ((folder / "operator" / "certificates" / "factory.pem").read_bytes(), b"-----BEGIN"):
        path.write_bytes(content)
        assert check_ceremony(folder, keys=None).findings == [
            f"service/certificates/{name}.pem: expected no certificate that no transcript names, found one"
        ]


def test_rollover_without_a_ceremony_s_transcript_is_not_told_of(tmp_path: Path) -> None:
    """A folder of an earlier version keeps working."""
    folder = held_ceremony(tmp_path)
    (folder / "operator" / "ceremony" / "0001.json").unlink()
    tell_of_issuing_ca(folder / "operator", "issuing-ca-2", keys=keys_of(folder), now=LATER)
    assert not (folder / "operator" / "ceremony" / "0001.json").exists()


def test_request_for_a_role_that_never_had_one_is_its_first(tmp_path: Path) -> None:
    """As in a folder that an earlier version made."""
    assert request_again(tmp_path, OnlineKey.OCSP) == "ocsp"
    assert generations(tmp_path / "csr", "ocsp") == ["ocsp"]
    assert request_again(tmp_path, OnlineKey.OCSP) == "ocsp"


def test_generations_are_counted_by_number(tmp_path: Path) -> None:
    """Ten comes after nine; other files are none."""
    for name in ("server.pem", "server-10.pem", "server-9.pem", "server-x.pem", "server-ca.pem", "xserver.pem"):
        (tmp_path / name).write_bytes(b"")
    assert generations(tmp_path, "server") == ["server", "server-9", "server-10"]


def test_folder_of_an_earlier_version_says_what_to_run(tmp_path: Path) -> None:
    """Before the service starts on it; a complete one and an empty one are let through."""
    service = held_ceremony(tmp_path) / "service"
    refuse_earlier_folder(service)
    (service / "certificates" / "ocsp.pem").unlink()
    with pytest.raises(EarlierFolderError, match=r"expected ocsp, found .* `tinyfleet pki request` here, .*--adopt"):
        refuse_earlier_folder(service)
    refuse_earlier_folder(tmp_path / "nothing")
