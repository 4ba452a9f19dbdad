"""A copy of a transparency log on the auditor's disk, in the layout in which logs are served (C2SP tlog-tiles).

    checkpoint              the newest one that was verified with everything below it
    tile/{L}/{N}[.p/{W}]    hashes, computed here from the entries
    tile/entries/{N}…       entries

Such a folder can be served as it is, by any web server.
"""

from pathlib import Path

from pki.files import PUBLIC_MODE, replace_file
from protocol.merkle import HASH_BYTES
from protocol.tiles import TILE_WIDTH, Tile, TileKey

CHECKPOINT_FILE = "checkpoint"


class LogCopy:
    """One copy.

    Args:
        folder: made when the first file is.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def checkpoint(self) -> bytes | None:
        """Return the newest checkpoint that was verified, or None."""
        return _read(self._folder / CHECKPOINT_FILE)

    def put_checkpoint(self, content: bytes) -> None:
        """Keep a verified checkpoint."""
        self._put(CHECKPOINT_FILE, content)

    def bundle(self, number: int, width: int) -> bytes | None:
        """Return entries that were fetched before, or None."""
        return _read(self._folder / "tile" / Tile(None, number, width).path())

    def put_bundle(self, number: int, width: int, content: bytes) -> None:
        """Keep entries; what they were when there were fewer goes."""
        self._put_tile(Tile(None, number, width), content)

    def put_hashes(self, key: TileKey, content: bytes) -> None:
        """Keep a tile of hashes."""
        self._put_tile(Tile(key.level, key.number, len(content) // HASH_BYTES), content)

    def forget_bundle(self, number: int, width: int) -> None:
        """Remove entries that turned out wrong."""
        (self._folder / "tile" / Tile(None, number, width).path()).unlink(missing_ok=True)

    def _put_tile(self, tile: Tile, content: bytes) -> None:
        self._put(f"tile/{tile.path()}", content)
        if tile.width == TILE_WIDTH:
            partial = self._folder / "tile" / f"{tile.path()}.p"
            for path in partial.glob("*"):
                path.unlink()

    def _put(self, name: str, content: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if _read(path) != content:
            replace_file(path, content, mode=PUBLIC_MODE)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
