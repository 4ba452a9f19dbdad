"""Which store holds which key: `keys.toml`, beside the folder `keys/` of an operator or a service.

    [stores.hsm]
    uri = "pkcs11:token=fleet?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin"

    [roles]
    root = "hsm"

    [keys]
    ada = "hsm"

[roles] names keys of fixed names (pki/roles.py), [keys] those that people have named. A key that is not named is a
file, and so is every key where there is no keys.toml. A later generation of a role
(`issuing-ca-2`) is where the role is, unless it is named itself. A relative PIN file lies beside keys.toml.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pki.errors import StoreConfigError
from pki.keystore import FileKeyStore, KeyStore, Passphrase
from pki.pkcs11 import Pkcs11KeyStore
from pki.roles import FIXED_ROLES, OnlineKey, base_role, check_own_key, signs_metadata
from pki.token_uri import parse_token_uri
from protocol.signing import Signer

CONFIG_FILE = "keys.toml"
FILE_STORE = "file"
MAX_CONFIG_BYTES = 64 * 1024
_STORE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_KEY_TABLES = ("roles", "keys")


@dataclass(frozen=True, slots=True)
class KeyStores:
    """The stores of one folder, as one. Implements `KeyStore`.

    Attributes:
        files: holds every role that no other store does.
        tokens: the stores of keys.toml by name.
        routes: role → name in `tokens`.
    """

    files: FileKeyStore
    tokens: Mapping[str, Pkcs11KeyStore] = field(default_factory=dict)
    routes: Mapping[str, str] = field(default_factory=dict)

    def store_of(self, role: str) -> str:
        """Return the name of the store that a role's key belongs in: one of keys.toml, or `FILE_STORE`."""
        return self.routes.get(role) or self.routes.get(base_role(role)) or FILE_STORE

    def token_of(self, role: str) -> Pkcs11KeyStore | None:
        """Return the token that a role's key belongs in; None where it is a file."""
        return self.tokens.get(self.store_of(role))

    def holds(self, role: str) -> bool:
        """See `KeyStore.holds`."""
        return self._of(role).holds(role)

    def load(self, role: str) -> Signer:
        """See `KeyStore.load`."""
        return self._of(role).load(role)

    def generate(self, role: str) -> Signer:
        """See `KeyStore.generate`."""
        return self._of(role).generate(role)

    def metadata_names(self) -> list[str]:
        """Return the names under which keys that may sign update metadata are, or belong, here; no token is opened."""
        return sorted(name for name in {*self.files.names(), *self.routes} if signs_metadata(name))

    def _of(self, role: str) -> KeyStore:
        return self.token_of(role) or self.files


def open_keys(folder: Path, *, passphrase: Passphrase | None) -> KeyStores:
    """Return the key stores of an operator's or a service's folder; no token is opened before its keys are needed.

    Args:
        folder: holds `keys/`, and keys.toml where keys are in tokens.
        passphrase: of the files; None for a service's, which are not encrypted.

    Raises:
        StoreConfigError: keys.toml is malformed, or names an unknown store or role.
        TokenUriError: a store's URI breaks a rule.
    """
    files = FileKeyStore(folder / "keys", passphrase=passphrase)
    config = _read(folder / CONFIG_FILE)
    _refuse_unknown(config, {"stores", *_KEY_TABLES}, CONFIG_FILE)
    tokens = {name: _token_store(name, entry, folder) for name, entry in _table(config, "stores").items()}
    routes = {role: _route(role, store, tokens) for role, store in _table(config, "roles").items()}
    own = {name: _own_route(name, store, tokens) for name, store in _table(config, "keys").items()}
    return KeyStores(files, tokens, routes | own)


def refuse_in_token(role: str) -> None:
    """Refuse the one role that must be a file.

    Raises:
        StoreConfigError: it is that of TLS.
    """
    if base_role(role) == OnlineKey.SERVER:
        raise StoreConfigError(f"key {role}: expected {FILE_STORE}, because OpenSSL itself reads it, found a token")


def _read(path: Path) -> Mapping[str, object]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StoreConfigError(f"{path}: expected a readable file, found {error.strerror}") from error
    if len(content) > MAX_CONFIG_BYTES:
        raise StoreConfigError(f"{path}: expected at most {MAX_CONFIG_BYTES} bytes, found {len(content)}")
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise StoreConfigError(f"{path}: expected TOML, found: {type(error).__name__}") from error


def _table(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    table = config.get(name, {})
    if not isinstance(table, dict):
        raise StoreConfigError(f"{CONFIG_FILE}: expected a table [{name}], found {type(table).__name__}")
    return cast("Mapping[str, object]", table)


def _refuse_unknown(table: Mapping[str, object], known: set[str], where: str) -> None:
    if unknown := sorted(table.keys() - known):
        raise StoreConfigError(f"{where}: expected {', '.join(sorted(known))}, found {unknown[0][:40]!r}")


def _token_store(name: str, entry: object, folder: Path) -> Pkcs11KeyStore:
    where = f"{CONFIG_FILE}, [stores.{name[:40]}]"
    if not _STORE_NAME.fullmatch(name) or name == FILE_STORE:
        raise StoreConfigError(f"{where}: expected a name of a-z, 0-9 and '-' other than {FILE_STORE}, found another")
    uri = entry.get("uri") if isinstance(entry, dict) else None
    if not isinstance(entry, dict) or not isinstance(uri, str):
        raise StoreConfigError(f"{where}: expected uri, a PKCS#11 URI in quotes, found none")
    _refuse_unknown(entry, {"uri"}, where)
    return Pkcs11KeyStore(parse_token_uri(uri, folder=folder))


def _route(role: str, store: object, tokens: Mapping[str, Pkcs11KeyStore]) -> str:
    where = f"{CONFIG_FILE}, role {role[:40]}"
    if base_role(role) not in FIXED_ROLES:
        raise StoreConfigError(f"{where}: expected one of {', '.join(sorted(FIXED_ROLES))}, found another")
    known = _known_store(where, store, tokens)
    if known != FILE_STORE:
        refuse_in_token(role)
    return known


def _own_route(name: str, store: object, tokens: Mapping[str, Pkcs11KeyStore]) -> str:
    check_own_key(name)
    return _known_store(f"{CONFIG_FILE}, key {name}", store, tokens)


def _known_store(where: str, store: object, tokens: Mapping[str, Pkcs11KeyStore]) -> str:
    if not isinstance(store, str) or (store not in tokens and store != FILE_STORE):
        known = ", ".join([FILE_STORE, *tokens])
        raise StoreConfigError(f"{where}: expected one of the stores {known}, found {str(store)[:40]!r}")
    return store
