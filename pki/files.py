"""Files that appear whole or not at all."""

import os
import secrets
from pathlib import Path

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644


def create_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a new file atomically and durably.

    Raises:
        FileExistsError: there is a file already; it stays as it was.
    """
    part = _written_beside(path, content, mode)
    try:
        os.link(part, path)  # unlike rename, fails when the name is taken
    finally:
        part.unlink()
    _sync_folder(path.parent)


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file atomically and durably; what was there before stays until the new content is on disk."""
    _written_beside(path, content, mode).replace(path)
    _sync_folder(path.parent)


def _written_beside(path: Path, content: bytes, mode: int) -> Path:
    part = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        part.unlink()
        raise
    return part


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
