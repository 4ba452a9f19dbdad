"""Where a PKCS#11 token is and who opens it, as a URI (RFC 7512), parsed strictly.

    pkcs11:token=NAME;serial=…;slot-id=…?module-path=/path/of/module.so&pin-source=file:PATH

`token`, `module-path` and `pin-source` must be there, `serial` and `slot-id` may be, and nothing else: what names a key
inside the token is the role. `pin-value` is refused, because a secret on a URI ends in logs; so is a `pin-source` that
would start a program.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pki.errors import TokenUriError

MAX_URI_CHARACTERS = 2048
_SCHEME = "pkcs11:"
_FILE = "file:"
_PATH_NAMES = frozenset({"token", "serial", "slot-id"})
_QUERY_NAMES = frozenset({"module-path", "pin-source"})
# RFC 7512 §2.3: pk11-pchar and pk11-qchar.
_PATH_VALUE = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=&-]|%[0-9A-Fa-f]{2})+")
_QUERY_VALUE = re.compile(r"(?:[A-Za-z0-9._~:\[\]@!$'()*+,=/?|-]|%[0-9A-Fa-f]{2})+")
_SLOT_ID = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class TokenUri:
    """One token.

    Attributes:
        token: its label.
        module: shared library of the PKCS#11 module.
        pin_file: holds the user PIN, and is closed to others.
        serial: the token's serial number, where several bear the label.
        slot_id: its slot; SoftHSM2 gives a token another slot on every machine.
    """

    token: str
    module: Path
    pin_file: Path
    serial: str | None = None
    slot_id: int | None = None


def parse_token_uri(text: str, *, folder: Path) -> TokenUri:
    """Parse a URI.

    Args:
        text: the URI.
        folder: where a relative path of the PIN file begins.

    Raises:
        TokenUriError: it is malformed, or names something that is not taken here.
    """
    if len(text) > MAX_URI_CHARACTERS or not text.startswith(_SCHEME):
        raise TokenUriError(f"token URI: expected {_SCHEME}… of at most {MAX_URI_CHARACTERS} characters, found another")
    path, _, query = text.removeprefix(_SCHEME).partition("?")
    place = _attributes(path.split(";"), _PATH_NAMES, _PATH_VALUE)
    access = _attributes(query.split("&"), _QUERY_NAMES, _QUERY_VALUE)
    return TokenUri(
        token=_required(place, "token"),
        module=_module(_required(access, "module-path")),
        pin_file=_pin_file(_required(access, "pin-source"), folder),
        serial=place.get("serial"),
        slot_id=_slot_id(place.get("slot-id")),
    )


def _attributes(parts: list[str], names: frozenset[str], values: re.Pattern[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for part in parts:
        name, _, value = part.partition("=")
        if name == "pin-value":
            raise TokenUriError("token URI: expected pin-source, found pin-value: a secret on a URI ends in logs")
        if name not in names or name in found:
            raise TokenUriError(f"token URI: expected each of {', '.join(sorted(names))} once, found {name[:40]!r}")
        if not values.fullmatch(value):
            raise TokenUriError(f"token URI: expected {name} of the characters of RFC 7512, found others or none")
        found[name] = _decoded(name, value)
    return found


def _decoded(name: str, value: str) -> str:
    try:
        decoded = unquote(value, errors="strict")
    except UnicodeDecodeError as error:
        raise TokenUriError(f"token URI: expected {name} in UTF-8, found other bytes") from error
    if not decoded.isprintable():
        raise TokenUriError(f"token URI: expected {name} of printable characters, found others")
    return decoded


def _required(attributes: Mapping[str, str], name: str) -> str:
    if name not in attributes:
        raise TokenUriError(f"token URI: expected {name}, found none")
    return attributes[name]


def _module(value: str) -> Path:
    # A relative one would be looked for wherever the dynamic linker looks.
    if not value.startswith("/"):
        raise TokenUriError(f"token URI: expected an absolute module-path, found {value!r}")
    return Path(value)


def _pin_file(value: str, folder: Path) -> Path:
    path = value.removeprefix(_FILE)
    if not value.startswith(_FILE) or not path or (path.startswith("//") and not path.startswith("///")):
        raise TokenUriError("token URI: expected pin-source=file:PATH, found another kind of source")
    return folder / (path.removeprefix("//"))


def _slot_id(value: str | None) -> int | None:
    if value is None:
        return None
    if not _SLOT_ID.fullmatch(value):
        raise TokenUriError(f"token URI: expected slot-id in decimal digits, found {value!r}")
    return int(value)
