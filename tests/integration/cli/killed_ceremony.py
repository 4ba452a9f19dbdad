"""A ceremony in a process that kills itself (SIGKILL) at a chosen point; started by forkserver, so that it is cheap."""

import os
import signal
import sys
from pathlib import Path

from pki import ceremony, files
from pki.ceremony import Journal, hold_ceremony
from pki.ceremony_declaration import parse_declaration
from pki.keystore import FileKeyStore
from pki.online import request_online_keys
from pki.stores import KeyStores
from tests.unit.pki.pki_builder import NOW

DECLARATION = b"catalog: demo\nparticipants: [Ada, Grace]\nhostnames: [fleet.example]\n"
POINTS = ("file is written but has no name", "file is there but not in the journal", "step is done")


def keys_of(folder: Path) -> KeyStores:
    return KeyStores(FileKeyStore(folder / "operator" / "keys", passphrase=None))


def hold_until(folder: Path, point: str) -> None:
    """Hold or go on with the ceremony until the next such point; end well if there is none left."""
    request_online_keys(folder / "service")
    if point == POINTS[0]:
        files.os.link = _die  # type: ignore[assignment]  # in this process alone
    elif point == POINTS[1]:
        ceremony._keep = _die_with_steps
    confirmed: list[int] = []

    def confirm(number: int, _count: int, _text: str) -> None:
        if confirmed and point == POINTS[2]:
            _die()
        confirmed.append(number)

    hold_ceremony(folder, parse_declaration(DECLARATION), keys=keys_of(folder), clock=lambda: NOW, confirm=confirm)
    sys.exit(0)


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


_keep = ceremony._keep


def _die_with_steps(operator_dir: Path, journal: Journal) -> None:
    if journal.steps:
        _die()
    _keep(operator_dir, journal)
