"""Files of a device's folder: replaced as a whole or not at all."""

from pathlib import Path

from device_sim.errors import DeviceFolderError


def replace_file(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file so that a kill of the simulator leaves the old content or the new.

    Not synced to the disk: what has to survive is the simulated power cut, not one of the host.

    Args:
        path: the file; a neighbour with the suffix `.new` is used on the way.
        content: all of it.
        mode: permissions.
    """
    new = path.with_name(path.name + ".new")
    new.touch(mode=mode)
    new.chmod(mode)
    new.write_bytes(content)
    new.replace(path)


def read_file(path: Path) -> bytes:
    """Read a file of a device's folder.

    Raises:
        DeviceFolderError: there is none.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DeviceFolderError(f"device folder: expected the file {path.name}, found none") from error
