"""The ceremony puts the log that devices are to trust into the Image root, and the check finds any other."""

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Root

from pki.ceremony import hold_ceremony
from pki.ceremony_check import check_ceremony
from pki.ceremony_declaration import DeclarationFile, parse_declaration
from pki.errors import CeremonyError, DeclarationError, LogRequestError
from pki.keystore import FileKeyStore
from pki.log_key import requested_log_key
from pki.metadata import image_root
from pki.online import ROOT_METADATA_LIFETIME, request_online_keys, requested_key
from pki.stores import KeyStores
from protocol.notes import Cosigner
from protocol.transparency import LogPolicy, policy_of

NOW = datetime(2026, 11, 23, tzinfo=UTC)
WITNESSES = [str(Cosigner(f"w{n}", Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)).key) for n in (1, 2, 3)]
IMAGE_ROOT = "service/genesis/image.root.json"


def _declared(**transparency: object) -> DeclarationFile:
    content = {"catalog": "demo", "participants": ["Ada"], "transparency": transparency}
    return parse_declaration(yaml.safe_dump(content).encode())


def _keys(folder: Path) -> KeyStores:
    return KeyStores(FileKeyStore(folder / "operator" / "keys", passphrase=None))


def _assent(_number: int, _count: int, _text: str) -> None:
    """Every step is confirmed."""


def _hold(folder: Path, declared: DeclarationFile, *, adopt: bool = False) -> None:
    hold_ceremony(folder, declared, keys=_keys(folder), clock=lambda: NOW, confirm=_assent, adopt=adopt)


def _policy(folder: Path) -> LogPolicy | None:
    return policy_of(Metadata[Root].from_bytes((folder / IMAGE_ROOT).read_bytes()).signed)


def test_root_names_log_witnesses_and_quorum(tmp_path: Path) -> None:
    """More than half of the witnesses, where the declaration leaves the quorum out."""
    request_online_keys(tmp_path / "service")
    _hold(tmp_path, _declared(witnesses=WITNESSES))
    key = requested_log_key(tmp_path / "service")
    assert _policy(tmp_path) == LogPolicy(origin=key.name, log=str(key), witnesses=tuple(WITNESSES), quorum=2)
    assert list(check_ceremony(tmp_path, keys=_keys(tmp_path)).findings) == []


@pytest.mark.parametrize(("declared", "quorum"), [({}, 0), ({"witnesses": WITNESSES, "quorum": 3}, 3)])
def test_quorum_is_what_is_declared(tmp_path: Path, declared: dict[str, object], quorum: int) -> None:
    """And none without witnesses."""
    request_online_keys(tmp_path / "service")
    _hold(tmp_path, _declared(**declared))
    policy = _policy(tmp_path)
    assert policy is not None
    assert policy.quorum == quorum


def test_log_that_is_switched_off_is_not_in_the_root(tmp_path: Path) -> None:
    """Nor does the ceremony need the log's request."""
    request_online_keys(tmp_path / "service")
    (tmp_path / "service/csr/log.note").unlink()
    _hold(tmp_path, _declared(required=False))
    assert _policy(tmp_path) is None
    assert list(check_ceremony(tmp_path, keys=None).findings) == []


def test_missing_request_stops_the_ceremony_before_it_begins(tmp_path: Path) -> None:
    """Nothing is made."""
    request_online_keys(tmp_path / "service")
    (tmp_path / "service/csr/log.note").unlink()
    with pytest.raises(LogRequestError, match="expected the service's request"):
        _hold(tmp_path, _declared())
    assert not (tmp_path / "operator").exists()


def test_request_that_changes_after_it_was_shown_is_refused(tmp_path: Path) -> None:
    """The text that people confirmed names the key."""
    for name in ("service", "other"):
        request_online_keys(tmp_path / name)

    def confirm(_number: int, _count: int, text: str) -> None:
        if text.startswith("request of the service for its transparency log"):
            shutil.copy(tmp_path / "other/csr/log.note", tmp_path / "service/csr/log.note")

    with pytest.raises(CeremonyError, match="expected the request that was shown, found another"):
        hold_ceremony(tmp_path, _declared(), keys=_keys(tmp_path), clock=lambda: NOW, confirm=confirm)


@pytest.mark.parametrize(
    "transparency",
    [
        {"witnesses": WITNESSES, "quorum": 4},
        {"witnesses": [WITNESSES[0], WITNESSES[0]]},
        {"witnesses": ["nobody"]},
        {"quorum": -1},
        {"required": "yes"},
        {"log": "another"},
    ],
)
def test_declaration_that_makes_no_policy_is_refused(transparency: dict[str, object]) -> None:
    """Before anybody comes together."""
    with pytest.raises(DeclarationError, match="transparency"):
        _declared(**transparency)


def _with_root(folder: Path, fields: Mapping[str, object]) -> None:
    """Put another first Image root into the folder, by the same keys."""
    service = folder / "service"
    content = image_root(
        _keys(folder).load("root"),
        targets=_keys(folder).load("image-targets").public_key,
        snapshot=requested_key(service, "snapshot"),
        timestamp=requested_key(service, "timestamp"),
        expires=NOW + ROOT_METADATA_LIFETIME,
        fields=fields,
    )
    (folder / IMAGE_ROOT).write_bytes(content)


def test_root_with_another_policy_is_found(tmp_path: Path) -> None:
    """Even by the root key: it is not what was declared."""
    request_online_keys(tmp_path / "service")
    _hold(tmp_path, _declared())
    wrong: tuple[tuple[Mapping[str, object], str], ...] = (
        ({}, "expected the declared policy"),
        ({"tinyfleet_log": 1}, "expected the policy of"),
    )
    for fields, expected in wrong:
        _with_root(tmp_path, fields)
        findings = list(check_ceremony(tmp_path, keys=None).findings)
        assert any(each.startswith(f"{IMAGE_ROOT}: {expected}") for each in findings), findings


def test_root_of_an_earlier_version_is_adopted_as_it_is(tmp_path: Path) -> None:
    """Its devices ask for no proof until the root changes."""
    request_online_keys(tmp_path / "service")
    _hold(tmp_path, _declared(required=False))
    for each in (tmp_path / "operator/ceremony").iterdir():
        each.unlink()
    _hold(tmp_path, _declared(), adopt=True)
    assert _policy(tmp_path) is None
    assert list(check_ceremony(tmp_path, keys=None).findings) == []


def test_adopted_root_with_a_policy_is_checked(tmp_path: Path) -> None:
    """As one that this ceremony makes."""
    request_online_keys(tmp_path / "service")
    _hold(tmp_path, _declared())
    for each in (tmp_path / "operator/ceremony").iterdir():
        each.unlink()
    _hold(tmp_path, _declared(), adopt=True)
    assert list(check_ceremony(tmp_path, keys=None).findings) == []
