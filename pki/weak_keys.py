"""Keys whose private half everybody can know: published with software and standards, or guessed in a few tries.

`weak_keys.txt` beside this module lists the SHA-256 of each key's SubjectPublicKeyInfo (DER, hex), below a line that
names where it was published. Boulder's goodkey keeps such a list for the web's certificates.
"""

import functools
from collections.abc import Mapping
from importlib.resources import files
from types import MappingProxyType

_LIST = "weak_keys.txt"


def weakness(key_sha256: str) -> str | None:
    """Return where a key's private half was published, or None for a key that is not listed.

    Args:
        key_sha256: of its SubjectPublicKeyInfo, DER, hex.
    """
    return _sources().get(key_sha256)


@functools.cache
def _sources() -> Mapping[str, str]:
    """Read the list: source by key."""
    found, source = dict[str, str](), ""
    for line in files("pki").joinpath(_LIST).read_text("ascii").splitlines():
        if line.startswith("# "):
            source = line.removeprefix("# ")
        else:
            found[line] = source
    return MappingProxyType(found)
