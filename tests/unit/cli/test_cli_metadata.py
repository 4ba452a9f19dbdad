"""`tinyfleet metadata`: what is drafted and signed here, and what is refused without a trace."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, Targets

from pki.errors import (
    CsrError,
    KeyExistsError,
    KeyNameError,
    MetadataExpiredError,
    MetadataVersionError,
    PassphraseError,
    ProposalError,
)
from pki.keystore import PASSPHRASE_VARIABLE
from pki.metadata import add_signature, next_root
from pki.proposals import Proposal, ProposedRepository, read_proposal, write_proposal
from protocol.signing import tuf_key
from service.cli import clock
from service.cli.catalog_papers import own_handover
from service.cli.errors import BadArgumentError
from service.cli.working_copy import WorkingCopy, WorkingCopyError
from tests.softhsm import SoftHsm
from tests.unit.cli.offline_service import DAY, Operator, wall_clock

FILE = Path("a.proposal.json")


def _later(operator: Operator, monkeypatch: pytest.MonkeyPatch, days: int) -> datetime:
    """Move the commands' clock, and let the service sign what it signs again."""
    moment = wall_clock() + timedelta(days=days)
    monkeypatch.setattr(clock, "now", lambda: moment)
    operator.service.expires = moment + DAY
    return moment


def _facts(operator: Operator, *arguments: object) -> Any:
    return json.loads(operator.run(*arguments, "--json").stdout)


def _proposed(role: str) -> Root | Targets:
    return Metadata[Root].from_bytes(read_proposal(FILE).metadata[role]).signed


@pytest.mark.parametrize("role", ["targets", "root", "director-root"])
def test_what_has_expired_is_renewed(operator: Operator, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """Everything else waits for it."""
    moment = _later(operator, monkeypatch, 400)
    answer = _facts(operator, "metadata", "renew", role, "--yes", "--propose", FILE)
    assert answer["complete"]
    renewed = _proposed(role.removeprefix("director-"))
    assert (renewed.version, renewed.expires > moment) == (2, True)
    assert _facts(operator, "metadata", "show", FILE)["complete"]


def test_nothing_is_renewed_on_what_the_service_let_expire(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen service gets no signature."""
    _later(operator, monkeypatch, 400)
    operator.service.expires = wall_clock() + DAY
    arguments = ("metadata", "renew", "targets", "--yes", "--propose", FILE)
    operator.refused(MetadataExpiredError, "timestamp: expected an expiry", *arguments)
    assert not FILE.exists()


def test_no_writes_no_proposal(operator: Operator) -> None:
    """The changes were shown; the answer is no."""
    result = operator.run("metadata", "renew", "targets", "--propose", FILE, answer="n\n", expect=1)
    assert isinstance(result.exception, BadArgumentError)
    assert "2, until" in result.stdout
    assert not FILE.exists()


def test_wrong_passphrase_writes_no_proposal(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be signed."""
    monkeypatch.setenv(PASSPHRASE_VARIABLE, "another passphrase")
    arguments = ("metadata", "renew", "targets", "--yes", "--propose", FILE)
    operator.refused(PassphraseError, "expected the passphrase that encrypted it", *arguments)
    assert not FILE.exists()


def test_key_is_made_with_its_public_half(operator: Operator) -> None:
    """Its name is one's own; it is never overwritten, and `pki keys list` shows it."""
    made = _facts(operator, "metadata", "key", "create", "ada")
    keys = operator.folders.keys
    assert made["key_id"] == tuf_key(keys.load("ada").public_key).keyid
    assert Path(made["public_key"]).read_bytes().startswith(b"-----BEGIN PUBLIC KEY-----")
    operator.refused(KeyExistsError, "key ada: expected no", "metadata", "key", "create", "ada")
    operator.refused(KeyNameError, "expected one of your own", "metadata", "key", "create", "package")
    listed = {entry["role"]: entry for entry in _facts(operator, "pki", "keys", "list", "--verify")}
    assert listed["ada"]["state"] == "signs"


def test_next_online_key_is_made_beside_the_one_in_force(operator: Operator) -> None:
    """On the service's machine; its request tells the operator."""
    service = operator.folders.service
    arguments = ("metadata", "key", "request", "timestamp", "--service-dir", service, "--json")
    made = [json.loads(operator.run_without_folder(*arguments).stdout)["key"] for _ in range(2)]
    assert made == ["timestamp-2", "timestamp-3"]
    for role, error in (("server", BadArgumentError), ("director", CsrError)):
        wrong = operator.run_without_folder(
            "metadata", "key", "request", role, "--service-dir", service / "none", expect=1
        )
        assert isinstance(wrong.exception, error)


def test_key_changes_that_cannot_be_are_refused(operator: Operator) -> None:
    """An unknown key, one twice, no change, more signatures than keys."""
    ada = _facts(operator, "metadata", "key", "create", "ada")["public_key"]
    cases = {
        ("add", "targets", "--key", "ada", "--key", ada): "expected different keys, found one of them twice",
        ("remove", "targets", "--key", "0123456789"): "expected one of targets, found none of this key id",
        ("add", "targets", "--key", "image-targets"): "expected other keys or another threshold",
        ("add", "targets", "--key", "ada", "--threshold", 3): "expected 1 to 2, its keys, found 3",
        ("rotate", "director", "--key", "ada", "--threshold", 2): "expected 1 to 1, its keys, found 2",
    }
    for arguments, message in cases.items():
        operator.refused(BadArgumentError, message, "metadata", "keys", *arguments, "--yes", "--propose", FILE)
    assert not FILE.exists()


def test_targets_are_signed_again_where_their_keys_go(operator: Operator) -> None:
    """One key joins: the targets in force still hold. The first one goes: they do not."""
    operator.run("metadata", "key", "create", "ada")
    operator.run("metadata", "keys", "add", "targets", "--key", "ada", "--yes", "--propose", FILE)
    assert set(read_proposal(FILE).metadata) == {"root"}
    operator.run("metadata", "keys", "rotate", "targets", "--key", "ada", "--yes", "--propose", FILE)
    assert set(read_proposal(FILE).metadata) == {"root", "targets"}
    assert _facts(operator, "metadata", "show", FILE)["complete"]


def test_proposal_is_signed_in_its_place(operator: Operator) -> None:
    """Whoever says no, or has no key that counts, leaves it as it was."""
    operator.run("metadata", "key", "create", "ada")
    keys = ("--key", "image-targets", "--key", "ada", "--threshold", 2)
    operator.run("metadata", "keys", "rotate", "targets", *keys, "--yes", "--propose", FILE)
    signed = FILE.read_bytes()
    assert _facts(operator, "metadata", "show", FILE)["missing"] == []
    result = operator.run("metadata", "sign", FILE, answer="n\n", expect=1)
    assert isinstance(result.exception, BadArgumentError)
    operator.run("metadata", "sign", FILE, "--yes")
    assert FILE.read_bytes() == signed
    FILE.write_bytes(signed[:-1])
    operator.refused(ProposalError, "expected a proposal, found another file", "metadata", "sign", FILE, "--yes")


@pytest.mark.parametrize("role", ["targets", "root", "director-root"])
def test_machine_without_a_network_signs(operator: Operator, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """It verifies against its working copy, even where what is to be renewed has expired."""
    moment = _later(operator, monkeypatch, 400)
    _facts(operator, "metadata", "renew", role, "--yes", "--propose", FILE)
    name = role.removeprefix("director-")
    metadata = Metadata[Root].from_bytes(read_proposal(FILE).metadata[name])
    metadata.signatures.clear()
    unsigned = read_proposal(FILE).model_copy(update={"metadata": {name: metadata.to_bytes()}})
    write_proposal(FILE, unsigned)
    operator.service.expires = moment - 9 * DAY  # whoever asked it would be refused
    assert not _facts(operator, "metadata", "show", FILE, "--offline")["complete"]
    assert _facts(operator, "metadata", "sign", FILE, "--offline", "--yes")["complete"]


def test_machine_without_a_network_goes_by_what_it_knows(operator: Operator) -> None:
    """A proposal on something newer is not signed."""
    repository = operator.folders.operator / "repository"
    content = Metadata[Targets].from_bytes((repository / "1.targets.json").read_bytes())
    content.signed.version = 3
    proposal = Proposal(repository=ProposedRepository.IMAGE, purpose="", metadata={"targets": content.to_bytes()})
    write_proposal(FILE, proposal)
    arguments = ("metadata", "sign", FILE, "--offline", "--yes")
    operator.refused(MetadataVersionError, "targets: expected version 2, found 3", *arguments)
    (repository / "1.targets.json").unlink()
    operator.refused(WorkingCopyError, r"expected a targets\.json in", *arguments)


def test_key_whose_token_is_not_here_is_left_out(operator: Operator, softhsm: SoftHsm) -> None:
    """Releases go on while the root's token is in a safe; the command says so."""
    softhsm.route(operator.folders.operator, ["root", "image-targets-2"], "vault")
    result = operator.run("metadata", "renew", "targets", "--yes", "--propose", FILE)
    assert "key root is left out: " in result.stderr
    assert _facts(operator, "metadata", "show", FILE)["complete"]
    softhsm.add_token("vault")  # and holds neither key
    assert "left out" not in operator.run("metadata", "renew", "targets", "--yes", "--propose", FILE).stderr


def test_handover_bears_the_newest_roots(operator: Operator) -> None:
    """A device that is claimed now trusts no key that was rotated out."""
    folder, keys = operator.folders.operator, operator.folders.keys
    repository = folder / "repository"
    first = Metadata[Root].from_bytes((repository / "1.root.json").read_bytes()).signed
    expires = wall_clock() + 9 * DAY
    second = add_signature(next_root(first, {}, expires=expires), keys.load("root"))
    (repository / "2.root.json").write_bytes(second)
    (repository / "director.10.root.json").write_bytes(b"tenth")
    (repository / "director.9.root.json").write_bytes(b"ninth")
    handover = own_handover(folder, now=wall_clock())
    assert (handover.image_root, handover.director_root) == (second, b"tenth")


def test_working_copy_without_roots_is_named(tmp_path: Path) -> None:
    """Neither repository's."""
    copy = WorkingCopy(tmp_path)
    with pytest.raises(WorkingCopyError, match=r"expected .*director\.root\.json, made by `tinyfleet init`"):
        copy.newest_roots()
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "director.root.json").write_bytes(b"{}")
    with pytest.raises(WorkingCopyError, match=r"expected a root\.json in"):
        copy.newest_roots()
