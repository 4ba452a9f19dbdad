"""Transcripts: chained, numbered, and signed by who may tell of what they name."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pki.errors import TranscriptError
from pki.roles import OfflineKey
from pki.transcript import (
    NOTHING_BEFORE,
    Made,
    Step,
    StepKind,
    Transcript,
    add_transcript,
    check_steps,
    read_transcripts,
    transcript_files,
    with_step,
)
from protocol.signing import SoftwareSigner
from tests.unit.pki.pki_builder import NOW

SIGNERS = {role: SoftwareSigner.generate() for role in (OfflineKey.ROOT, OfflineKey.SERVER_CA, OfflineKey.FACTORY)}
KEYS = {role: signer.public_key for role, signer in SIGNERS.items()}
SERVER = "service/certificates/server-2.pem"


def _steps(*names: str) -> tuple[Step, ...]:
    steps: tuple[Step, ...] = ()
    for name in names:
        kind = StepKind.REQUEST if "csr" in name else StepKind.CERTIFICATE
        steps = with_step(steps, Made(kind, name, "a" * 64), at=NOW)
    return steps


def _add(folder: Path, role: OfflineKey, *names: str) -> Path:
    (folder / "ceremony").mkdir(exist_ok=True)
    return add_transcript(
        folder,
        SIGNERS[role],
        act="ceremony",
        declaration_sha256="b" * 64,
        participants=["Ada"],
        began_at=NOW,
        ended_at=NOW,
        steps=_steps(*names),
    )


def _read(folder: Path, keys: dict[OfflineKey, ec.EllipticCurvePublicKey] = KEYS) -> list[Transcript]:
    return read_transcripts(folder, keys=keys)


def test_transcripts_follow_one_another(tmp_path: Path) -> None:
    """The root's first, then the root's or an authority's."""
    _add(tmp_path, OfflineKey.ROOT, "operator/certificates/root.pem", "service/certificates/server.pem")
    _add(tmp_path, OfflineKey.SERVER_CA, SERVER)
    _add(tmp_path, OfflineKey.FACTORY, "service/csr/ocsp-2.pem", "service/certificates/ocsp-2.pem")
    _add(tmp_path, OfflineKey.ROOT, "operator/certificates/issuing-ca-2.pem")
    transcripts = _read(tmp_path)
    assert [transcript.sequence for transcript in transcripts] == [1, 2, 3, 4]
    assert transcripts[0].previous_sha256 == NOTHING_BEFORE
    assert [path.name for path in transcript_files(tmp_path)] == [f"000{number}.json" for number in range(1, 5)]


@pytest.mark.parametrize(
    ("role", "name"),
    [
        (OfflineKey.SERVER_CA, "service/certificates/server.pem"),
        (OfflineKey.SERVER_CA, "service/certificates/server-ca.pem"),
        (OfflineKey.SERVER_CA, "service/certificates/server-2.pem/../root.pem"),
        (OfflineKey.SERVER_CA, "service/certificates/server-2xpem"),
        (OfflineKey.FACTORY, "service/certificates/ocsp-ca.pem"),
        (OfflineKey.SERVER_CA, "service/certificates/ocsp-2.pem"),
        (OfflineKey.SERVER_CA, "operator/certificates/factory.pem"),
        (OfflineKey.FACTORY, SERVER),
    ],
)
def test_authority_tells_only_of_what_it_issues(tmp_path: Path, role: OfflineKey, name: str) -> None:
    """The server CA cannot replace the factory, nor the certificate that the ceremony made."""
    _add(tmp_path, OfflineKey.ROOT, "a")
    _add(tmp_path, role, name)
    with pytest.raises(TranscriptError, match=f"0002.json: expected what {role} issues, found certificate {name}"):
        _read(tmp_path)


def test_authority_tells_of_a_certificate_as_a_certificate(tmp_path: Path) -> None:
    """Under another kind its contents would not be compared with the declaration."""
    _add(tmp_path, OfflineKey.ROOT, "a")
    add_transcript(
        tmp_path,
        SIGNERS[OfflineKey.SERVER_CA],
        act="issue server-2",
        declaration_sha256="b" * 64,
        participants=(),
        began_at=NOW,
        ended_at=NOW,
        steps=with_step((), Made(StepKind.METADATA, SERVER, "a" * 64), at=NOW),
    )
    with pytest.raises(TranscriptError, match=f"expected what server-ca issues, found metadata {SERVER}"):
        _read(tmp_path)


def test_first_transcript_is_the_root_s(tmp_path: Path) -> None:
    """A stolen server CA's key makes no ceremony."""
    _add(tmp_path, OfflineKey.SERVER_CA, SERVER)
    with pytest.raises(TranscriptError, match=r"0001.json: expected a transcript signed by root, found: Transcript"):
        _read(tmp_path)


def test_stranger_s_transcript_is_refused(tmp_path: Path) -> None:
    """Signed, but by none of the keys."""
    _add(tmp_path, OfflineKey.ROOT, "a")
    _add(tmp_path, OfflineKey.FACTORY, "service/certificates/ocsp-2.pem")
    with pytest.raises(TranscriptError, match=r"0002.json: expected a transcript signed by root, server-ca, found"):
        _read(tmp_path, {role: KEYS[role] for role in (OfflineKey.ROOT, OfflineKey.SERVER_CA)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one, two, _three: (one.unlink(), two.unlink()), r"expected 0001.json, found 0003.json"),
        (lambda _one, two, _three: two.unlink(), r"expected 0002.json, found 0003.json"),
        (
            lambda _one, two, three: three.replace(two),
            r"0002.json: expected number 2 after [0-9a-f]{16}…, found 3 after",
        ),
        (
            lambda one, _two, _three: one.write_bytes(one.read_bytes() + b" "),
            r"0002.json: expected number 2 after .*, found 2 after",
        ),
        (
            lambda one, _two, _three: one.write_bytes(b"{"),
            r"0001.json: expected .* signed by root, found: env",
        ),
    ],
)
def test_missing_exchanged_or_edited_transcript_is_named(
    tmp_path: Path, change: Callable[[Path, Path, Path], object], message: str
) -> None:
    """Each holds the hash of the one before."""
    change(*[_add(tmp_path, OfflineKey.ROOT, name) for name in "abc"])
    with pytest.raises(TranscriptError, match=message):
        _read(tmp_path)


def test_folder_without_a_transcript_says_how_to_get_one(tmp_path: Path) -> None:
    """Of an earlier version, or before the ceremony's end."""
    with pytest.raises(TranscriptError, match=r"expected operator/ceremony/0001.json .* by `tinyfleet pki ceremony"):
        _read(tmp_path)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2), (0, 0, 1, 2)])
def test_steps_out_of_order_are_refused(order: tuple[int, ...]) -> None:
    """Exchanged, left out, doubled."""
    steps = _steps("a", "b", "c")
    check_steps(steps)
    with pytest.raises(TranscriptError, match="transcript: expected step "):
        check_steps([steps[index] for index in order])


def test_edited_step_is_refused() -> None:
    """The next step holds its hash."""
    steps = list(_steps("a", "b"))
    steps[0] = steps[0].model_copy(update={"sha256": "c" * 64})
    with pytest.raises(TranscriptError, match="expected step 2 after"):
        check_steps(steps)


def test_other_files_are_no_transcripts(tmp_path: Path) -> None:
    """A journal, a note."""
    (tmp_path / "ceremony").mkdir()
    for name in ("journal.json", "note.txt", "00001.json"):
        (tmp_path / "ceremony" / name).write_bytes(b"")
    assert transcript_files(tmp_path) == []
