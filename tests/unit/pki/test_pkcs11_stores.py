"""keys.toml: which store holds which key."""

from pathlib import Path

import pytest

from pki.errors import StoreConfigError, TokenUriError
from pki.pkcs11 import Pkcs11KeyStore
from pki.stores import FILE_STORE, MAX_CONFIG_BYTES, open_keys

URI = "pkcs11:token=fleet?module-path=/lib/p11.so&pin-source=file:pin"
STORE = f'[stores.hsm]\nuri = "{URI}"\n'


def _config(folder: Path, text: str) -> Path:
    (folder / "keys.toml").write_text(text)
    return folder


def test_every_key_is_a_file_without_keys_toml(tmp_path: Path) -> None:
    """The folder of a service or operator that has no token."""
    stores = open_keys(tmp_path, passphrase=None)
    signer = stores.generate("director")
    assert (stores.store_of("director"), stores.holds("director"), stores.holds("root")) == (FILE_STORE, True, False)
    assert open_keys(tmp_path, passphrase=None).load("director").public_key == signer.public_key
    assert (tmp_path / "keys" / "director.pem").exists()


def test_roles_go_where_keys_toml_says(tmp_path: Path) -> None:
    """No token is opened for that; a later generation goes with its role unless it is named."""
    routes = '[roles]\nissuing-ca = "hsm"\nissuing-ca-3 = "file"\nsnapshot = "file"\n'
    stores = open_keys(_config(tmp_path, STORE + routes), passphrase=None)
    places = {role: stores.store_of(role) for role in ("issuing-ca", "issuing-ca-2", "issuing-ca-3", "snapshot")}
    assert places == {"issuing-ca": "hsm", "issuing-ca-2": "hsm", "issuing-ca-3": "file", "snapshot": "file"}
    assert isinstance(stores.tokens["hsm"], Pkcs11KeyStore)
    assert stores.tokens["hsm"].uri.pin_file == tmp_path / "pin"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("roles", "expected TOML, found: TOMLDecodeError"),
        ("#" * (MAX_CONFIG_BYTES + 1), "expected at most 65536 bytes, found 65537"),
        ("[store]\n", "keys.toml: expected keys, roles, stores, found 'store'"),
        ("roles = 1\n", r"expected a table \[roles\], found int"),
        ("[stores]\nhsm = 1\n", r"\[stores.hsm\]: expected uri, a PKCS#11 URI in quotes, found none"),
        ("[stores.hsm]\n", "expected uri"),
        ("[stores.hsm]\nuri = 1\n", "expected uri"),
        (STORE + 'pin = "846213"\n', "expected uri, found 'pin'"),
        (STORE.replace("hsm", "file"), "expected a name of a-z, 0-9 and '-' other than file"),
        (STORE.replace("hsm", "HSM"), "expected a name of a-z"),
        ('[roles]\nroot = "hsm"\n', "role root: expected one of the stores file, found 'hsm'"),
        (STORE + "[roles]\nroot = 1\n", "role root: expected one of the stores file, hsm, found '1'"),
        (STORE + '[roles]\nrooot = "hsm"\n', "role rooot: expected one of .*root.*, found another"),
        (
            STORE + '[roles]\nserver = "hsm"\n',
            "key server: expected file, because OpenSSL itself reads it, found a token",
        ),
        (STORE + '[roles]\nserver-2 = "hsm"\n', "key server-2: expected file, because OpenSSL itself reads it"),
    ],
)
def test_malformed_keys_toml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Exactly one thing is wrong with each."""
    with pytest.raises(StoreConfigError, match=message):
        open_keys(_config(tmp_path, text), passphrase=None)


def test_keys_toml_in_other_bytes_is_refused(tmp_path: Path) -> None:
    """TOML is UTF-8."""
    (tmp_path / "keys.toml").write_bytes(b"# \xff")
    with pytest.raises(StoreConfigError, match="expected TOML, found: UnicodeDecodeError"):
        open_keys(tmp_path, passphrase=None)


def test_unreadable_keys_toml_is_refused(tmp_path: Path) -> None:
    """It is not taken for a missing one, which would make keys as files."""
    (tmp_path / "keys.toml").mkdir()
    with pytest.raises(StoreConfigError, match="expected a readable file"):
        open_keys(tmp_path, passphrase=None)


def test_malformed_uri_in_keys_toml_is_refused(tmp_path: Path) -> None:
    """The URI's own error."""
    with pytest.raises(TokenUriError, match="expected module-path, found none"):
        open_keys(_config(tmp_path, STORE.replace("module-path=/lib/p11.so&", "")), passphrase=None)
