"""PKCS#11 modules of this process, and logins to their tokens.

One login and one session serve every store and signer of a token, because PKCS#11 logs in a whole process and not a
session; a second URI of an open token needs its PIN all the same. Every call goes through one lock: python-pkcs11
starts a module with C_Initialize(NULL), by which the application promises not to call it from several threads at once
(PKCS#11 2.40 §5.4).

A module that failed is stopped, and started again by the next use: the session may be void, and a token that has come
back counts again. A process that was forked does the same, as the standard asks. A PIN that a token has refused is not
tried again, so that a busy service cannot lock the token.

A module that is linked with the interpreter's OpenSSL leaves errors in the thread's queue (SoftHSM2 when it starts: "no
such engine"), and the next TLS connection of the thread would take them for its own. They are cleared.
"""

import _ssl
import ctypes
import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pkcs11

from pki.errors import (
    AmbiguousTokenError,
    PinError,
    PinFileError,
    PinLockedError,
    TokenError,
    TokenMissingError,
    TokenModuleError,
    TokenRemovedError,
    TokenWriteError,
)
from pki.token_uri import TokenUri

MAX_PIN_BYTES = 256

_LOCK = threading.RLock()
_MODULES: dict[Path, "TokenModule"] = {}

_WRONG_PIN = (pkcs11.PinIncorrect, pkcs11.PinInvalid, pkcs11.PinLenRange)
_NO_PIN = (pkcs11.PinLocked, pkcs11.PinExpired)
_REMOVED = (
    pkcs11.DeviceError,
    pkcs11.DeviceRemoved,
    pkcs11.KeyHandleInvalid,
    pkcs11.ObjectHandleInvalid,
    pkcs11.SessionClosed,
    pkcs11.SessionHandleInvalid,
    pkcs11.SlotIDInvalid,
    pkcs11.TokenNotPresent,
    pkcs11.TokenNotRecognised,
    pkcs11.UserNotLoggedIn,
)
_FULL = (
    pkcs11.DeviceMemory,
    pkcs11.FunctionFailed,  # SoftHSM2 on a full disk
    pkcs11.GeneralError,
    pkcs11.HostMemory,
    pkcs11.SessionReadOnly,
    pkcs11.TokenWriteProtected,
)


@dataclass(frozen=True, slots=True)
class Pin:
    """A PIN that no traceback shows."""

    text: str = field(repr=False)


class TokenModule:
    """One module of this process; `module_at` gives it.

    Args:
        path: its shared library.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._library: pkcs11._lib_type | None = None
        self._sessions: dict[TokenUri, pkcs11.Session] = {}
        self._refused_pins: dict[TokenUri, Pin] = {}
        self._accepted_pins: dict[int, Pin] = {}  # by slot

    @contextmanager
    def session(self, uri: TokenUri) -> Iterator[pkcs11.Session]:
        """Give the logged-in read-only session of a token, to one thread at a time.

        Raises:
            TokenError: the leaf says what is wrong with module, token, PIN or session.
        """
        with _LOCK:
            try:
                if uri not in self._sessions:
                    self._sessions[uri] = self._log_in(uri)
                yield self._sessions[uri]
            except pkcs11.PKCS11Error as error:
                self.stop()
                raise _explained(error, uri) from error
            finally:
                _forget_openssl_errors()

    @contextmanager
    def writing(self, uri: TokenUri) -> Iterator[pkcs11.Session]:
        """Give a session that may also write. Raises as `session`, and TokenWriteError."""
        with self.session(uri) as logged_in:
            try:
                writable = logged_in.token.open(rw=True)
                try:
                    yield writable
                finally:
                    writable.close()
            except _FULL as error:
                self.stop()
                found = type(error).__name__
                raise TokenWriteError(f"token {uri.token}: expected room and leave to write, found {found}") from error

    def stop(self) -> None:
        """Forget every session; the next use starts the module again and reads anew what its tokens hold."""
        with _LOCK:
            self._sessions.clear()
            if self._library is not None:
                with suppress(pkcs11.PKCS11Error):  # its token may be gone
                    self._library.finalize()

    def _log_in(self, uri: TokenUri) -> pkcs11.Session:
        token, pin = self._token(uri), read_pin(uri.pin_file)
        if self._refused_pins.get(uri) == pin:
            raise PinError(f"token {uri.token}: expected a new PIN in {uri.pin_file}, found the one that was refused")
        try:
            session = token.open(user_pin=pin.text)
        except pkcs11.UserAlreadyLoggedIn as error:  # by another URI of the same token
            if self._accepted_pins.get(token.slot.slot_id) != pin:
                raise PinError(
                    f"token {uri.token}: expected the PIN that opened it in {uri.pin_file}, found another"
                ) from error
            return token.open()
        except (*_WRONG_PIN, *_NO_PIN):
            self._refused_pins[uri] = pin
            raise
        self._accepted_pins[token.slot.slot_id] = pin
        return session

    def _token(self, uri: TokenUri) -> pkcs11.Token:
        # An uninitialised token has no label.
        present = [token for token in self._started().get_tokens() if token.label]
        matching = [token for token in present if _matches(token, uri)]
        if not matching:
            labels = ", ".join(sorted(token.label for token in present)) or "none"
            raise TokenMissingError(f"token: expected {_described(uri)} in {uri.module}, found these tokens: {labels}")
        if len(matching) > 1:
            serials = ", ".join(sorted(token.serial.decode("ascii", "replace") for token in matching))
            raise AmbiguousTokenError(f"token: expected one {uri.token}, found serial numbers {serials}; name one")
        return matching[0]

    def _started(self) -> "pkcs11._lib_type":
        if not self._path.is_file():
            raise TokenModuleError(f"PKCS#11 module: expected {self._path}, found no such file")
        try:
            self._library = pkcs11.lib(str(self._path))
        except pkcs11.PKCS11Error as error:
            found = str(error) or type(error).__name__
            raise TokenModuleError(f"PKCS#11 module: expected that {self._path} starts, found: {found}") from error
        return self._library


def module_at(path: Path) -> TokenModule:
    """Return this process's one module of a path."""
    with _LOCK:
        return _MODULES.setdefault(path, TokenModule(path))


def stop_modules() -> None:
    """Stop every module of this process; what is used again starts again."""
    with _LOCK:
        for module in _MODULES.values():
            module.stop()


def read_pin(path: Path) -> Pin:
    """Read a PIN; the line's end is not part of it.

    Raises:
        PinFileError: no such file, open to others, or none that holds a PIN.
    """
    try:
        mode = path.stat().st_mode & 0o777
        # The group may read, as with keys: that is how orchestrators hand a secret to an unprivileged process.
        if mode & 0o007:
            raise PinFileError(f"PIN: expected {path} closed to others, found mode {mode:04o}")
        pin = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise PinFileError(f"PIN: expected a readable {path}, found {error.strerror}") from error
    if not 0 < len(pin) <= MAX_PIN_BYTES:
        raise PinFileError(f"PIN: expected 1 to {MAX_PIN_BYTES} bytes in {path}, found {len(pin)}")
    try:
        return Pin(pin.decode())
    except UnicodeDecodeError as error:
        raise PinFileError(f"PIN: expected UTF-8 in {path}, found other bytes") from error


@functools.cache
def _openssl() -> ctypes.CDLL:
    return ctypes.CDLL(getattr(_ssl, "__file__", None))  # with the libcrypto that it is linked with


def _forget_openssl_errors() -> None:
    with suppress(AttributeError):  # one that is linked in statically is no module's
        _openssl().ERR_clear_error()


def _matches(token: pkcs11.Token, uri: TokenUri) -> bool:
    return (
        token.label == uri.token
        and uri.serial in {None, token.serial.decode("ascii", "replace")}
        and uri.slot_id in {None, token.slot.slot_id}
    )


def _described(uri: TokenUri) -> str:
    serial = "" if uri.serial is None else f" with serial number {uri.serial}"
    return f"{uri.token}{serial}" + ("" if uri.slot_id is None else f" in slot {uri.slot_id}")


def _explained(error: pkcs11.PKCS11Error, uri: TokenUri) -> TokenError:
    found = type(error).__name__
    if isinstance(error, _WRONG_PIN):
        return PinError(f"token {uri.token}: expected its user PIN in {uri.pin_file}, found another ({found})")
    if isinstance(error, _NO_PIN):
        return PinLockedError(f"token {uri.token}: expected that it takes a PIN, found {found}; its officer sets one")
    if isinstance(error, _REMOVED):
        return TokenRemovedError(f"token {uri.token}: expected it in its slot and open, found {found}")
    return TokenError(f"token {uri.token}: expected an answer, found {found}")


def _after_fork() -> None:
    stop_modules()
    _LOCK.release()


# No other thread is inside a module while the process forks, so that the child's copy is in order.
os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_after_fork)
