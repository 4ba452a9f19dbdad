"""Secure storage: bytes by name in one file, state.json, replaced as a whole.

On the chip it is encrypted and bound to the root of trust; here it is a file that only its owner can read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from device_sim.errors import DeviceFolderError, StorageFullError
from device_sim.hardware.files import read_file, replace_file
from device_sim.hardware.power import PowerSupply
from protocol.document import Document, DocumentError, DocumentT, canonical_json, parse_document
from protocol.voucher import Base64Bytes

MAX_STORAGE_BYTES = 16 * 1024 * 1024
RESERVED_BYTES = 512 * 1024  # for what a device must keep when the rest is full
REPORTS = "update/progress"  # the name that reports are kept under, which say that it is full
LAST_REVERT = "last-revert"
CONFIRMING = "update/confirming"  # the image that was confirmed last, or is about to be
RELEASE_FLOOR = "update/release-floor/"  # and a slot
_OF_THE_RESERVE = (REPORTS, LAST_REVERT, CONFIRMING, RELEASE_FLOOR)


class _State(Document):
    items: Annotated[Mapping[str, Base64Bytes], Field(default_factory=dict)]


class SecureStorage:
    """Bytes by name that survive a power cut.

    Args:
        path: state.json; need not exist.
        power: what writing needs.

    Raises:
        DeviceFolderError: the file is not of the expected form.
    """

    def __init__(self, path: Path, *, power: PowerSupply) -> None:
        self._path = path
        self._power = power
        self._items = _load(path) if path.exists() else {}

    def get(self, name: str) -> bytes | None:
        """Return what is kept under a name, or None."""
        return self._items.get(name)

    def put(self, name: str, value: bytes) -> None:
        """Keep bytes under a name. Raises as `update`."""
        self.update({name: value})

    def get_document(self, name: str, document_type: type[DocumentT]) -> DocumentT | None:
        """Return the document that is kept under a name, or None.

        Raises:
            DocumentError: it is none of the type.
        """
        kept = self.get(name)
        return None if kept is None else parse_document(kept, document_type)

    def put_document(self, name: str, document: Document) -> None:
        """Keep a document under a name, as canonical JSON. Raises as `update`."""
        self.put(name, canonical_json(document))

    def update(self, changes: Mapping[str, bytes | None]) -> None:
        """Change several names at once, all or none; None removes a name.

        Raises:
            StorageFullError: it would be more than can be read again; nothing has changed.
            PowerCutError: the power failed.
        """
        changed = {name: value for name, value in {**self._items, **changes}.items() if value is not None}
        if changed == self._items:
            return
        written = canonical_json(_State(items=changed))
        takes_reserve = all(name.startswith(_OF_THE_RESERVE) for name in changes)
        most = MAX_STORAGE_BYTES if takes_reserve else MAX_STORAGE_BYTES - RESERVED_BYTES
        if len(written) > most and _size(changed) > _size(self._items):
            raise StorageFullError(f"secure storage: expected at most {most} bytes, found {len(written)}")
        if self._power.draw() < 1.0:
            self._power.require()
        replace_file(self._path, written)
        self._items = changed

    def names(self) -> tuple[str, ...]:
        """Return every name in use, sorted."""
        return tuple(sorted(self._items))


def _size(items: Mapping[str, bytes]) -> int:
    return sum(len(name) + len(value) for name, value in items.items())


def _load(path: Path) -> dict[str, bytes]:
    try:
        return dict(parse_document(read_file(path), _State, max_bytes=MAX_STORAGE_BYTES).items)
    except DocumentError as error:
        raise DeviceFolderError(f"{path.name}: expected secure storage, found {error}") from error
