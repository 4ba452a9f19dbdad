"""A ceremony that has been held, made once and copied for each case that changes something in it."""

import functools
import shutil
import tempfile
from datetime import datetime
from pathlib import Path

from pki.ceremony import hold_ceremony
from pki.ceremony_declaration import parse_declaration
from pki.keystore import FileKeyStore
from pki.online import request_online_keys
from pki.stores import KeyStores
from tests.unit.pki.pki_builder import NOW

DECLARATION = (
    b"catalog: demo\nparticipants: [Ada, Grace]\nhostnames: [fleet.example]\npublish_url: http://fleet.example\n"
)


def keys_of(folder: Path) -> KeyStores:
    return KeyStores(FileKeyStore(folder / "operator" / "keys", passphrase=None))


def hold(folder: Path, *, now: datetime = NOW) -> None:
    request_online_keys(folder / "service")
    hold_ceremony(
        folder,
        parse_declaration(DECLARATION),
        keys=keys_of(folder),
        clock=lambda: now,
        confirm=lambda _number, _count, _text: None,
    )


@functools.cache
def _held() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="tinyfleet-held-"))
    hold(folder)
    return folder


def held_ceremony(target: Path) -> Path:
    shutil.copytree(_held(), target, dirs_exist_ok=True)
    return target
