"""SoftHSM2 for tests: tokens below a test's own folder, and faults at the module's own functions.

SoftHSM2 reads SOFTHSM2_CONF when it starts, so the fixture sets it and stops the module before and after. A fault is a
return code of PKCS#11 put in place of one function of the loaded module; everything around it stays the real one.
"""

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from pki.pkcs11 import Pkcs11KeyStore
from pki.token_uri import TokenUri, parse_token_uri
from pki.tokens import stop_modules

PIN = "846213"
OFFICER_PIN = "90817263"
MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/opt/homebrew/lib/softhsm/libsofthsm2.so"),
)

# Where a function's pointer lies in CK_FUNCTION_LIST (PKCS#11 2.40, pkcs11f.h), and how many arguments it takes.
_FUNCTIONS = {
    "C_OpenSession": (13, 5),
    "C_Login": (19, 4),
    "C_DestroyObject": (23, 2),
    "C_SignInit": (43, 3),
    "C_GenerateKeyPair": (60, 8),
}


def module() -> Path:
    """Return SoftHSM2's module on this machine."""
    found = next((path for path in MODULES if path.exists()), None)
    assert found is not None, "expected SoftHSM2 to be installed; on Debian or Ubuntu: apt-get install softhsm2"
    return found


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """Tokens in a folder, which SOFTHSM2_CONF names.

    Attributes:
        folder: gets softhsm2.conf, tokens/ and pin.
    """

    folder: Path

    @property
    def conf(self) -> Path:
        return self.folder / "softhsm2.conf"

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens"

    def add_token(self, label: str = "fleet", pin: str = PIN) -> TokenUri:
        """Make a token with the operator's own tool, and return its URI."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label]
        secrets = ["--pin", pin, "--so-pin", OFFICER_PIN]
        subprocess.run([*command, *secrets], check=True, capture_output=True, env={"SOFTHSM2_CONF": str(self.conf)})
        stop_modules()  # what has started already does not see it
        return parse_token_uri(self.uri(label), folder=self.folder)

    def uri(self, label: str = "fleet") -> str:
        """Write a token's URI as keys.toml has it."""
        return f"pkcs11:token={quote(label)}?module-path={module()}&pin-source=file:{self.folder / 'pin'}"

    def store(self, label: str = "fleet") -> Pkcs11KeyStore:
        """Make a token and return its key store."""
        return Pkcs11KeyStore(self.add_token(label))

    def route(self, folder: Path, roles: list[str], label: str = "fleet") -> None:
        """Write keys.toml of an operator's or a service's folder: these roles are in the token."""
        folder.mkdir(parents=True, exist_ok=True)
        routes = "".join(f'{role} = "hsm"\n' for role in roles)
        (folder / "keys.toml").write_text(f'[stores.hsm]\nuri = "{self.uri(label)}"\n\n[roles]\n{routes}')


def make_softhsm(folder: Path) -> SoftHsm:
    """Prepare a folder; its caller sets SOFTHSM2_CONF to `conf`."""
    hsm = SoftHsm(folder)
    hsm.tokens.mkdir(parents=True)
    hsm.conf.write_text(f"directories.tokendir = {hsm.tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
    pin = folder / "pin"
    pin.touch(mode=0o600)
    pin.write_text(PIN + "\n")
    return hsm


@pytest.fixture
def softhsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftHsm]:
    """An HSM without tokens."""
    hsm = make_softhsm(tmp_path / "hsm")
    monkeypatch.setenv("SOFTHSM2_CONF", str(hsm.conf))
    stop_modules()
    yield hsm
    stop_modules()


@contextmanager
def fault(function: str, answer: Callable[[], int | None], *, late: bool = False) -> Iterator[None]:
    """Put a fault into the loaded module.

    Args:
        function: its name in PKCS#11.
        answer: gives the return code of each call; None lets the call through.
        late: the function does its work first.
    """
    index, count = _FUNCTIONS[function]
    pointers = _function_list()
    kind = ctypes.CFUNCTYPE(ctypes.c_ulong, *[ctypes.c_void_p] * count)
    original = pointers[index]
    assert original is not None
    real = kind(original)

    def faulty(*arguments: int | None) -> int:
        code = answer()
        done = real(*arguments) if late or code is None else 0
        return int(done) if code is None else code

    callback = kind(faulty)
    pointers[index] = ctypes.cast(callback, ctypes.c_void_p).value
    try:
        yield
    finally:
        pointers[index] = original


def _function_list() -> "ctypes._Pointer[ctypes.c_void_p]":
    # CK_FUNCTION_LIST: the version, padded to the size of a pointer, then the functions.
    pointers = ctypes.POINTER(ctypes.c_void_p)()
    assert ctypes.CDLL(str(module())).C_GetFunctionList(ctypes.byref(pointers)) == 0
    return pointers
